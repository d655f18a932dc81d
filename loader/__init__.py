"""Training data as a `tf.data.Dataset`, in an order that is a function of the data set, the seed and the epoch.

>>> from loader import load                                                         # doctest: +SKIP
>>> train = load("out/elpv/1.0.0", "train", batch_size=64, features="image", augment=True)   # doctest: +SKIP
"""

from importlib.util import find_spec

from schemas import HeadraceError

if find_spec("tensorflow") is None:
    raise HeadraceError("The loader needs TensorFlow.", hint="python -m pip install 'headrace[loader]'")

from loader import augment
from loader.api import load
from loader.bucket import Buckets
from loader.packing import Packing

__all__ = ["Buckets", "Packing", "augment", "load"]
