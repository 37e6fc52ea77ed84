"""Corpora of clips, and their segments loaded in batches."""
