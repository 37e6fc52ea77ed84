"""The `byola-rq` command."""
