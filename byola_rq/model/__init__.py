"""Encoders, training objectives and the model file."""
