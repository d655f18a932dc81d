"""Tests of the transform step, in .venv-transform; in a process of their own, as TensorFlow needs."""
