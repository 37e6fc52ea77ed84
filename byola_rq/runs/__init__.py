"""Run directories: lock, checkpoints, metrics."""
