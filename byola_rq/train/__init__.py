"""Pretraining: the loop and what a run is made of."""
