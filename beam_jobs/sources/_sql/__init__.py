"""What the `sql` source is made of: statements, a session for each database, and partitions cut from rows."""
