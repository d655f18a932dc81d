"""Statistics of shards: computed from the bytes that are written, kept for each shard, merged in shard order."""
