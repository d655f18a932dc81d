"""Data sets on servers of this machine's loopback: an S3 server, a GCS emulator, plain HTTP, and faults between."""
