"""The tf-transform step: the only part of a job that imports TensorFlow.

`stages` are imported by every job, `plan` by those with a transform; only the rest imports TensorFlow.
"""
