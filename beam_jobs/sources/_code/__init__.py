"""Rows that the code of a user gives."""
