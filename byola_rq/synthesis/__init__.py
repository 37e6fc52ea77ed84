"""Built-in sounds, made from a seed."""
