"""The ready functions: what a job writes in YAML, as a preprocessing_fn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from schemas.transforms import Bucketize, Hash, MinMax, OneHot, Step, TfIdf, Vocabulary, ZScore

Tensors = dict[str, Any]


def preprocessing_fn(steps: Mapping[str, Step]) -> Callable[[Tensors], Tensors]:
    """The function that makes what `steps` name, and hands on the features that have no step of their name."""

    def function(inputs: Tensors) -> Tensors:
        outputs = {name: value for name, value in inputs.items() if name not in steps}
        for name in sorted(steps):  # analysers are known by their order
            step = steps[name]
            outputs |= _MAKERS[type(step)](name, step, inputs[step.source or name])
        return outputs

    return function


def _z_score(name: str, _: ZScore, x: Any) -> Tensors:
    return {name: tft.scale_to_z_score(_numbers(x), name=name)}


def _min_max(name: str, step: MinMax, x: Any) -> Tensors:
    return {name: tft.scale_by_min_max(_numbers(x), step.min, step.max, name=name)}


def _bucketize(name: str, step: Bucketize, x: Any) -> Tensors:
    return {name: tft.bucketize(_numbers(x), step.buckets, epsilon=step.epsilon, name=name)}


def _vocabulary(name: str, step: Vocabulary, x: Any) -> Tensors:
    return {name: _numbered(name, step, x)}


def _one_hot(name: str, step: OneHot, x: Any) -> Tensors:
    assert step.top_k is not None, "the spec asks for it"
    return {name: tf.one_hot(_numbered(name, step, x), step.top_k + step.oov_buckets)}


def _numbered(name: str, step: Vocabulary | OneHot, x: Any) -> Any:
    return tft.compute_and_apply_vocabulary(
        x,
        top_k=step.top_k,
        # To TFT a threshold of 1 is none, and it warns of it.
        frequency_threshold=_threshold(step.frequency_threshold),
        num_oov_buckets=step.oov_buckets,
        vocab_filename=name,
        name=name,
    )


def _tfidf(name: str, step: TfIdf, x: Any) -> Tensors:
    if step.lower:
        x = tf.strings.lower(x, encoding="utf-8")
    # As tf.strings.split of TensorFlow 1, whose SparseTensor is what tft.ngrams takes.
    words = tf.strings.split(x).to_sparse()
    terms = tft.ngrams(words, step.ngrams, separator=" ")
    places = tft.compute_and_apply_vocabulary(
        terms,
        top_k=step.top_k,
        frequency_threshold=_threshold(step.frequency_threshold),
        default_value=step.top_k,
        vocab_filename=name,
        name=name,
    )
    indices, weights = tft.tfidf(places, step.top_k + 1, smooth=step.smooth, name=f"{name}_tfidf")
    return {f"{name}_indices": indices, f"{name}_weights": weights}


def _hash(name: str, step: Hash, x: Any) -> Tensors:
    if isinstance(x, tf.SparseTensor):
        values = tf.as_string(x.values) if x.dtype != tf.string else x.values
        hashed = tft.hash_strings(tf.SparseTensor(x.indices, values, x.dense_shape), step.buckets, name=name)
    else:
        hashed = tft.hash_strings(tf.as_string(x) if x.dtype != tf.string else x, step.buckets, name=name)
    return {name: hashed}


def _numbers(x: Any) -> Any:
    return tf.cast(x, tf.float32)


def _threshold(value: int | None) -> int | None:
    return None if value == 1 else value


_MAKERS: dict[type, Callable[[str, Any, Any], Tensors]] = {
    ZScore: _z_score,
    MinMax: _min_max,
    Bucketize: _bucketize,
    Vocabulary: _vocabulary,
    OneHot: _one_hot,
    TfIdf: _tfidf,
    Hash: _hash,
}
