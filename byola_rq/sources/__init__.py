"""What people have: folders, lists, tars and tables of clips."""
