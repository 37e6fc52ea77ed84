"""Scripts behind the speed and memory figures in docs/results.md; run from the checkout."""
