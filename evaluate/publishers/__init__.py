"""Readers of published data sets, one per publisher's layout."""
