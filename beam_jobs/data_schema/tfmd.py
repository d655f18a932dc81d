"""A schema as tensorflow_metadata's Schema, in protobuf text, and back: what TFX's and TFDV's tools read and write.

What that has no place for (sizes of images, lengths of texts, balance, names of classes, bounds by split) travels in
comments, which survive tools that rewrite a schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_jobs.data_schema.single import shortest
from beam_jobs.starter.page import Page, flow, scalar
from schemas.data_schema import (
    BoolRules,
    ClassLabelRules,
    DataSchema,
    Float32Rules,
    ImageRules,
    Int64Rules,
    Rules,
    TextRules,
    Thresholds,
    parse_data_schema,
)
from schemas.errors import HeadraceError

_MAX_BYTES = 16 << 20
_OURS, _NAMES = "headrace: ", "names: "
_TYPES = {
    "image": schema_pb2.BYTES,
    "class_label": schema_pb2.INT,
    "bool": schema_pb2.INT,
    "int64": schema_pb2.INT,
    "float32": schema_pb2.FLOAT,
    "text": schema_pb2.BYTES,
    "bytes": schema_pb2.BYTES,
}
# What has a place of its own.
_EVERYWHERE: dict[str, Any] = {"type": True, "min_presence": True, "drift": True, "skew": True}
_PLACED: dict[str, dict[str, Any]] = {
    "image": {**_EVERYWHERE, "bytes": {"max"}},
    "class_label": {**_EVERYWHERE, "values": True},
    "int64": {**_EVERYWHERE, "min": True, "max": True, "length": True},
    "float32": {**_EVERYWHERE, "min": True, "max": True, "length": True},
    "text": {**_EVERYWHERE, "values": True, "min_domain_mass": True},
}
Json = dict[str, Any]


def to_pbtxt(schema: DataSchema) -> str:
    """The schema as protobuf text, features in its order."""
    out = schema_pb2.Schema()
    for name, rules in schema.features.items():
        _feature(out.feature.add(), name, rules)
    lows = [rules.min_records for rules in schema.splits.values()]
    if lows and None not in lows:
        # TFX compares each split by itself.
        out.dataset_constraints.min_examples_count = min(low for low in lows if low is not None)
    rest = schema.model_dump(mode="json", exclude_defaults=True, exclude={"features"})
    if rest:
        out.annotation.comment.append(_OURS + _json(rest))
    text: str = text_format.MessageToString(out, as_utf8=True)
    return text


def _feature(out: schema_pb2.Feature, name: str, rules: Rules) -> None:
    out.name = name
    out.type = _TYPES[rules.type]
    if rules.min_presence is not None:
        out.presence.min_fraction = rules.min_presence
    _domain(out, rules)
    if isinstance(rules, Int64Rules | Float32Rules):
        _bounds(out.value_count, rules.length.min, rules.length.max)
    for comparator, which in ((out.drift_comparator, "drift"), (out.skew_comparator, "skew")):
        thresholds = getattr(rules, which, None)
        if isinstance(thresholds, Thresholds) and thresholds.infinity_norm is not None:
            comparator.infinity_norm.threshold = thresholds.infinity_norm
        if thresholds is not None and thresholds.jensen_shannon is not None:
            comparator.jensen_shannon_divergence.threshold = thresholds.jensen_shannon
    rest = rules.model_dump(mode="json", exclude_defaults=True, exclude=_PLACED.get(rules.type, _EVERYWHERE))
    out.annotation.comment.append(_OURS + _json({"type": rules.type, **rest}))


def _domain(out: schema_pb2.Feature, rules: Rules) -> None:
    match rules:
        case ImageRules():
            out.image_domain.SetInParent()
            if rules.bytes.max is not None:
                out.image_domain.max_image_byte_size = rules.bytes.max
        case ClassLabelRules():
            out.int_domain.is_categorical = True
            if rules.values is not None:
                out.int_domain.min, out.int_domain.max = 0, len(rules.values) - 1
                out.annotation.comment.append(_NAMES + _json(rules.values))
        case BoolRules():
            out.bool_domain.SetInParent()
        case Int64Rules():
            _bounds(out.int_domain, rules.min, rules.max)
        case Float32Rules():
            _bounds(out.float_domain, rules.min, rules.max)
            if rules.max_not_finite == 0:
                out.float_domain.disallow_nan = out.float_domain.disallow_inf = True
        case TextRules() if rules.values is not None:
            out.string_domain.value.extend(rules.values)
            out.distribution_constraints.min_domain_mass = rules.min_domain_mass


def _bounds(domain: Any, low: float | None, high: float | None) -> None:
    if low is not None:
        domain.min = low
    if high is not None:
        domain.max = high


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


def from_pbtxt_file(path: str) -> str:
    """The text of the schema that a file holds as tensorflow_metadata's.

    Raises:
      HeadraceError: it cannot be read, is no Schema, or holds what a schema cannot.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise HeadraceError("The file is too large.", where=path, allowed=f"{_MAX_BYTES} bytes")
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HeadraceError("The file cannot be read.", where=path, value=str(error)) from error
    return from_pbtxt(text, path)


def from_pbtxt(text: str, where: str) -> str:
    """The text of the schema that protobuf text holds; `where` names the file in errors. See `from_pbtxt_file`."""
    try:
        found = text_format.Parse(text, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeError, RecursionError) as error:
        raise HeadraceError(
            "The file is no Schema of tensorflow_metadata as protobuf text.", where=where, value=str(error)
        ) from error
    domains = {domain.name: domain for domain in found.string_domain}
    page = Page()
    page.say(f"Written by: headrace schema import, from {Path(where).name}")
    page.gap()
    splits = _ours(found.annotation.comment).get("splits")
    if isinstance(splits, dict) and splits:
        page.add("splits:")
        for name, bounds in splits.items():
            page.add(f"  {scalar(name)}: {flow(bounds)}")
        page.gap()
    elif found.HasField("dataset_constraints"):
        page.say("Its bounds of the number of examples name no split; write them under `splits:`.")
        page.gap()
    page.add("features:")
    for feature in found.feature:
        page.add(f"  {scalar(feature.name)}:")
        for field, value in _rules(feature, domains, where).items():
            page.add(f"    {field}: {flow(value)}")
        page.gap()
    written = page.text()
    parse_data_schema(written, f"{where}, as a schema")
    return written


def _ours(comments: Any) -> Json:
    """What `to_pbtxt` has put into comments."""
    found: Json = {}
    for comment in comments:
        for mark, field in ((_OURS, None), (_NAMES, "values")):
            if comment.startswith(mark):
                try:
                    value = json.loads(comment.removeprefix(mark))
                except (ValueError, RecursionError):
                    continue
                found |= {field: value} if field else value if isinstance(value, dict) else {}
    return found


def _rules(feature: schema_pb2.Feature, domains: dict[str, schema_pb2.StringDomain], where: str) -> Json:
    ours = _ours(feature.annotation.comment)
    kind = _type(feature, ours, where)
    if kind != ours.get("type", kind):
        ours = {}  # of another type
    found: Json = {**ours, "type": kind}
    if feature.presence.HasField("min_fraction"):
        found["min_presence"] = feature.presence.min_fraction
    if kind in _DOMAINS:
        found |= _DOMAINS[kind](feature, domains)
    if kind == "image" and feature.image_domain.HasField("max_image_byte_size"):
        found["bytes"] = {**ours.get("bytes", {}), "max": feature.image_domain.max_image_byte_size}
    if feature.HasField("value_count") and kind in ("int64", "float32"):
        found["length"] = _set_bounds(feature.value_count)
    for comparator, which in ((feature.drift_comparator, "drift"), (feature.skew_comparator, "skew")):
        thresholds = {}
        if comparator.HasField("infinity_norm"):
            thresholds["infinity_norm"] = comparator.infinity_norm.threshold
        if comparator.HasField("jensen_shannon_divergence"):
            thresholds["jensen_shannon"] = comparator.jensen_shannon_divergence.threshold
        if thresholds:
            found[which] = thresholds
    return found


def _type(feature: schema_pb2.Feature, ours: Json, where: str) -> str:
    kind, domain = feature.type, feature.WhichOneof("domain_info")
    if kind == schema_pb2.FLOAT:
        return "float32"
    if kind == schema_pb2.INT and domain == "bool_domain":
        return "bool"
    if kind == schema_pb2.INT:
        is_label = feature.int_domain.is_categorical and (
            "values" in ours or ours.get("type") == "class_label"
        )
        return "class_label" if is_label and ours.get("type") != "int64" else "int64"
    if kind == schema_pb2.BYTES and domain == "image_domain":
        return "image"
    if kind == schema_pb2.BYTES:
        return "bytes" if ours.get("type") == "bytes" and not feature.HasField("string_domain") else "text"
    raise HeadraceError(
        "A feature is of a type that no feature of Headrace has.",
        where=f"{where}, feature {feature.name}",
        value=schema_pb2.FeatureType.Name(kind),
        allowed="BYTES, INT or FLOAT",
        hint="Remove it from the file, or flatten it.",
    )


def _set_bounds(domain: Any) -> Json:
    return {field: getattr(domain, field) for field in ("min", "max") if domain.HasField(field)}


def _float32(feature: schema_pb2.Feature, _: Any) -> Json:
    domain = feature.float_domain
    bounds = {field: shortest(value) for field, value in _set_bounds(domain).items()}
    return bounds | ({"max_not_finite": 0} if domain.disallow_nan and domain.disallow_inf else {})


def _text(feature: schema_pb2.Feature, domains: dict[str, schema_pb2.StringDomain]) -> Json:
    domain = feature.string_domain if feature.HasField("string_domain") else domains.get(feature.domain)
    found: Json = {} if domain is None or not domain.value else {"values": list(domain.value)}
    if found and feature.distribution_constraints.HasField("min_domain_mass"):
        found["min_domain_mass"] = feature.distribution_constraints.min_domain_mass
    return found


_DOMAINS: dict[str, Callable[[schema_pb2.Feature, dict[str, schema_pb2.StringDomain]], Json]] = {
    "int64": lambda feature, _: _set_bounds(feature.int_domain),
    "float32": _float32,
    "text": _text,
}
