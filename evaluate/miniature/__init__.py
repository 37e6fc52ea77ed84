"""The six data sets in small, in their publishers' layouts."""
