"""Untrusted text: safe printing, table cells and parsing."""
