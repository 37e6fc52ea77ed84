"""Programs to read: each is one page, or two with what the last three share."""
