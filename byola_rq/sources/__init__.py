"""Sources of clips: folders, lists, tars and tables."""
