"""Scripts that produce the figures in docs/results.md and docs/performance.md."""
