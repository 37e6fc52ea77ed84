"""Miniatures of the six data sets, in their publishers' layouts."""
