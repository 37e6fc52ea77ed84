"""Command line `byola-rq`."""
