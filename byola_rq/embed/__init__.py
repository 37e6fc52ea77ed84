"""Embeddings of waveforms and files."""
