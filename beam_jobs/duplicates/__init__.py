"""Duplicates: records that hold the same, or nearly, under different keys."""
