"""Evaluation: frozen embeddings -> linear probes -> csv; run from the checkout."""
