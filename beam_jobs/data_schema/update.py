"""A schema changed so that a version fits it: only the bounds that it breaks, comments and all else as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.distances import counts_of
from beam_jobs.data_schema.infer import infer_schema
from beam_jobs.starter.page import flow
from schemas.anomalies import Anomaly
from schemas.data_schema import DataSchema, parse_data_schema
from schemas.load import compose_file
from schemas.statistics import Statistics

Path = tuple[str, ...]


def update_schema(text: str, where: str, statistics: Statistics) -> tuple[str, list[str], list[Anomaly]]:
    """The text of a schema with the bounds widened that the statistics break, to what `infer_schema` proposes.

    Args:
      text: of the schema; `where` names its file in errors.
      statistics: of the version that is to fit it.

    Returns:
      The text, what was changed, and the anomalies that remain: features and splits that are missing, new or of
      another type, which a person has to decide.
    """
    schema = parse_data_schema(text, where)
    proposed = parse_data_schema(infer_schema(statistics, where), where)
    edits: dict[Path, Any] = {}
    for anomaly in find_anomalies(schema, statistics):
        if anomaly.field is not None:
            path = tuple(anomaly.field.split("."))
            value = _wanted(path, schema, proposed, statistics)
            if value is not None and value != _at(schema, path):
                edits[path] = value
    changed, told = _edited(text, edits)
    updated = parse_data_schema(changed, where)
    return changed, told, find_anomalies(updated, statistics)


def _wanted(path: Path, schema: DataSchema, proposed: DataSchema, statistics: Statistics) -> Any:
    """The new value of a field; None where nothing can be proposed."""
    if path[-1] != "values":
        return _at(proposed, path)
    known = list(_at(schema, path) or [])
    domain = {str(value) for value in known}
    more: dict[str, None] = {}
    for split in statistics.splits.values():
        feature = split.features.get(path[1])
        counts = None if feature is None else counts_of(feature)
        if counts is not None:
            more |= {value: None for value, count in counts.listed.items() if count and value not in domain}
    numbers = any(isinstance(value, int) for value in known)
    return [*known, *(int(value) if numbers else value for value in more)]


def _at(schema: DataSchema, path: Sequence[str]) -> Any:
    found: Any = schema.model_dump()
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _edited(text: str, edits: dict[Path, Any]) -> tuple[str, list[str]]:
    """The text with values replaced, the last one first so that places stay right."""
    root = compose_file(text)
    places = []
    for path, value in edits.items():
        node = _node(root, path)
        if node is not None:
            places.append((node.start_mark.index, _end(node), path, value))
    told = []
    for start, end, path, value in sorted(places, reverse=True):
        told.append(f"{'.'.join(path)}: {' '.join(text[start:end].split())} → {flow(value)}")
        text = text[:start] + flow(value) + text[end:]
    return text, told[::-1]


def _node(node: yaml.Node | None, path: Path) -> yaml.Node | None:
    for part in path:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for key, value in node.value if key.value == part), None)
    return node


def _end(node: yaml.Node) -> int:
    """Where a value ends; a block's own end mark lies behind the comments that follow it."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    end: int = node.end_mark.index
    return end
