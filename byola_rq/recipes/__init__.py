"""Recipes: named changes of config.yaml, with their sources and scores."""
