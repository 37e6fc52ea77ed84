"""Configurations by name: what they change of config.yaml, where they come from, what they gave."""
