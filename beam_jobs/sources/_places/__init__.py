"""Where files lie: listing, finding and reading them here, behind fsspec and in archives."""
