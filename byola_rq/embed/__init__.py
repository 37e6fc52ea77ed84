"""Waveforms and files into embeddings."""
