"""Scripts behind the figures in docs/results.md and docs/performance.md; run from the checkout."""
