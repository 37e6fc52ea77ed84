"""Augmentations, and the two views made of them."""
