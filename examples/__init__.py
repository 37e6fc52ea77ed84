"""Example programs of one page each; three of them share `comparison`."""
