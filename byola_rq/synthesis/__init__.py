"""Built-in synthetic sounds, generated from a seed."""
