"""The contract between preparation and training: job specs, features, manifests, hashes, names.

Importable anywhere: neither Beam nor TensorFlow.
"""

from schemas.errors import HeadraceError
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
