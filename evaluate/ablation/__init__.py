"""Variants of one recipe, pretrained with several seeds each, evaluated and compared."""
