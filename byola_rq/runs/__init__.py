"""Run directories: locking, checkpoints, metrics."""
