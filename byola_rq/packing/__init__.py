"""Packing of sources into one corpus (`byola-rq prepare`)."""
