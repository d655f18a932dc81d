"""Rules that learn from the train split: what they ask, how it is found, and what they do with it."""
