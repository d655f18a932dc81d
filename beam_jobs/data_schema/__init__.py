"""The schema of a data set's data: inferred from statistics, compared with them, exchanged with TFX's tools."""
