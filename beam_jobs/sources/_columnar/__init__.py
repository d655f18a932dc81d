"""What the sources `parquet`, `arrow`, `orc` and `avro` share."""
