"""What the sources of lines and rows of text share."""
