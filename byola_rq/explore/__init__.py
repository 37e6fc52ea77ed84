"""Questions to a folder of recordings: what is alike, what is in there, which label fits."""
