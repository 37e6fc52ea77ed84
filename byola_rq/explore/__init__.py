"""Exploration of a folder of recordings: search, map and classification."""
