"""`byola-rq prepare`: any sources into one packed corpus."""
