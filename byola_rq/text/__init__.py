"""Text of others: made safe to print, to put into tables, and to parse."""
