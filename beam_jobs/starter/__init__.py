"""What `headrace init` is made of: what is there, what it holds, and how a job is written that reads it."""
