"""Training data as a `tf.data.Dataset`, in an order that is a function of the data set, the seed and the epoch."""

from loader.api import load

__all__ = ["load"]
