"""Tasks: clips, labels, folds."""
