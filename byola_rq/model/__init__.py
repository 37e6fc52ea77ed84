"""Encoders, the BYOL objective and the model file."""
