"""One reader per data set, as its publisher lays it out."""
