"""Results, summaries, tables, charts and comparisons."""
