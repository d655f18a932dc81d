"""Directories and object stores that data sets are written to, and servers that fail on purpose."""
