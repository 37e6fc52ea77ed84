"""Pictures for papers and notebooks."""
