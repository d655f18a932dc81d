"""Preprocessing functions of the tests. Imported only where tensorflow-transform is."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

Tensors = dict[str, Any]


def everything(inputs: Tensors) -> Tensors:
    """Analysers of every kind that Headrace runs, in two phases, and by key."""
    x, town = inputs["x"], inputs["town"]
    words = tf.strings.split(inputs["text"]).to_sparse()
    places = tft.compute_and_apply_vocabulary(
        tft.ngrams(words, (1, 2), " "), top_k=20, vocab_filename="terms"
    )
    indices, weights = tft.tfidf(places, 21)
    return {
        "z": tft.scale_to_z_score(x),
        "unit": tft.scale_to_0_1(x),
        "bucket": tft.bucketize(x, 4),
        "town": tft.compute_and_apply_vocabulary(town, num_oov_buckets=1, vocab_filename="towns"),
        "by_town": tft.scale_to_z_score_per_key(x, town),
        "weighted": tft.compute_and_apply_vocabulary(town, weights=tf.abs(x), vocab_filename="weighted"),
        "tags": tft.compute_and_apply_vocabulary(inputs["tags"], vocab_filename="tags"),
        "vector": tft.scale_to_z_score(inputs["vector"], elementwise=True),
        "whitened": tf.matmul(inputs["vector"], tft.pca(inputs["vector"], 2, tf.float32)),
        "logged": tf.math.log(1 + tf.abs(x)),
        "share": tf.nn.softmax(inputs["vector"]),
        "mixed": tf.matmul(tf.exp(inputs["vector"]), tf.reshape(tf.range(15, dtype=tf.float32), [3, 5]) / 7),
        "indices": indices,
        "weights": weights,
        "label": inputs["label"],
    }


def raises(inputs: Tensors) -> Tensors:
    """Asks for a feature that is not there."""
    return {"y": inputs["nowhere"]}


def no_rows(inputs: Tensors) -> Tensors:
    """Gives one number for all records."""
    return {"y": tf.reduce_mean(inputs["x"])}


def no_tensor(inputs: Tensors) -> Tensors:
    """Gives a number."""
    return {"x": inputs["x"], "y": 3}


def no_dict(inputs: Tensors) -> Any:
    """Gives a tensor without a name."""
    return inputs["x"]


def by_batch(inputs: Tensors) -> Tensors:
    """Takes the mean of a batch for that of the data set."""
    return {"y": inputs["x"] - tf.reduce_mean(inputs["x"])}


def by_order(inputs: Tensors) -> Tensors:
    """Adds up the records before."""
    return {"y": tf.cumsum(inputs["x"])}


def by_chance(inputs: Tensors) -> Tensors:
    """Adds noise."""
    return {"y": inputs["x"] + tf.random.normal(tf.shape(inputs["x"]))}


def fewer(inputs: Tensors) -> Tensors:
    """Leaves records out."""
    return {"y": tf.boolean_mask(inputs["x"], inputs["x"] > 0)}


def informed(inputs: Tensors) -> Tensors:
    """A vocabulary by mutual information, which is not offered."""
    return {"y": tft.compute_and_apply_vocabulary(inputs["town"], labels=inputs["label"])}


def wide(inputs: Tensors) -> Tensors:
    """A type that no record can hold."""
    return {"label": inputs["label"], "y": tf.cast(inputs["x"], tf.float64)}


def without_label(inputs: Tensors) -> Tensors:
    """Forgets the label."""
    return {"z": tft.scale_to_z_score(inputs["x"])}


def plain(inputs: Tensors) -> Tensors:
    """Analyses nothing."""
    return {"y": inputs["x"] * 2.0, "label": inputs["label"]}


def counted(inputs: Tensors) -> Tensors:
    """Vocabularies that keep their counts, one of them of nothing."""
    rare = tft.vocabulary(
        inputs["town"], frequency_threshold=10_000, store_frequency=True, vocab_filename="rare"
    )
    towns = tft.vocabulary(inputs["town"], store_frequency=True, vocab_filename="counted")
    shift = tf.cast(tf.strings.length(rare) - tf.strings.length(rare), tf.float32)
    shift += tf.cast(tf.strings.length(towns) - tf.strings.length(towns), tf.float32)
    return {"y": inputs["x"] + shift, "label": inputs["label"]}
