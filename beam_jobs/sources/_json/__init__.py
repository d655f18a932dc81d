"""What the source `jsonl` consists of."""
