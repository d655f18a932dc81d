"""The contract between preparation and training: job specs, features, manifests, hashes, names.

Importable anywhere: neither Beam nor TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from schemas.index import ShardIndex, read_index
    from schemas.load import job_schema, load_spec, parse_spec
    from schemas.manifest import Books, Manifest, read_manifest
    from schemas.spec import JobSpec

__version__ = "0.1.0"

__all__ = [
    "Books",
    "HeadraceError",
    "JobSpec",
    "Manifest",
    "ShardIndex",
    "__version__",
    "job_schema",
    "load_spec",
    "parse_spec",
    "read_index",
    "read_manifest",
]

_HOMES = {
    "Books": "manifest",
    "JobSpec": "spec",
    "Manifest": "manifest",
    "ShardIndex": "index",
    "job_schema": "load",
    "load_spec": "load",
    "parse_spec": "load",
    "read_index": "index",
    "read_manifest": "manifest",
}


def __getattr__(name: str) -> Any:
    """Loads a part when it is first used: pydantic and pyarrow would make `headrace --help` slow."""
    if name in _HOMES:
        return getattr(import_module(f"schemas.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
