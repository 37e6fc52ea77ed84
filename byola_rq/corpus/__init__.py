"""Clips in a fixed order, and their segments loaded in batches."""
