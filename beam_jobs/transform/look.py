"""What a job's plan has to know of its function, found by a process of its own.

TensorFlow takes 600 MB and never gives them back: where the plan alone needs it, a job would hold them while it builds
its runs, on top of what those take. Parts cross as JSON; what the function prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from schemas import HeadraceError, JobSpec
from schemas.errors import shorten
from schemas.features import Feature

_FEATURES: TypeAdapter[dict[str, Feature]] = TypeAdapter(dict[str, Feature])
_SECONDS = 600


@dataclass(frozen=True)
class Looked:
    """What tracing a function has shown.

    Attributes:
      phases: passes over the records that its analysis takes.
      analysers: what tf-transform knows them by.
      outputs: the features that transformed records hold, as JSON, where they are written.
    """

    phases: int
    analysers: list[Any]
    outputs: dict[str, Any] | None

    @property
    def features(self) -> dict[str, Feature] | None:
        """The outputs as features."""
        return None if self.outputs is None else _FEATURES.validate_python(self.outputs)


def look(spec: JobSpec, features: dict[str, Feature]) -> Looked:
    """Traces the job's function, here if TensorFlow is here already, else elsewhere.

    Raises:
      HeadraceError: the function does not do; see `beam_jobs.transform.graph`.
    """
    if "tensorflow" in sys.modules:
        return look_here(spec, features)
    asked = {
        "spec": spec.model_dump(by_alias=True, mode="json", exclude_unset=True),
        "features": _FEATURES.dump_python(features, mode="json", by_alias=True),
        "path": sys.path,
    }
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
        env={
            "TF_CPP_MIN_LOG_LEVEL": "3",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise HeadraceError(
            "The process that looked at the preprocessing_fn has died.",
            where="transform",
            value=shorten(done.stderr.decode(errors="replace")[-400:]),
        ) from None
    if "error" in told:
        what = told["error"].pop("what")
        raise HeadraceError(what, **told["error"])
    return Looked(**told)


def look_here(spec: JobSpec, features: dict[str, Feature]) -> Looked:
    """The same in this process."""
    from beam_jobs.transform.graph import one_thread, trace
    from beam_jobs.transform.outputs import output_features
    from beam_jobs.transform.plan import taken

    transform = spec.transforming
    assert transform is not None, "only a job with a transform comes here"
    one_thread()
    found = trace(transform, taken(features))
    outputs = output_features(spec, features, found.outputs) if transform.materialize else None
    analysers = [
        [name, sorted(each.source_keys), sorted(str(path) for path in each.unique_path_hash)]
        for name, each in sorted(found.fingerprints.items())
    ]
    told = None if outputs is None else _FEATURES.dump_python(outputs, mode="json", by_alias=True)
    return Looked(len(found.phases), analysers, told)


def main() -> None:
    """Looks at what standard input asks for, and answers on standard output."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    sys.path[:] = asked["path"]
    try:
        spec = JobSpec.model_validate(asked["spec"])
        told = asdict(look_here(spec, _FEATURES.validate_python(asked["features"])))
    except HeadraceError as error:
        told = {"error": error.to_json()}
    json.dump(told, answer)
    answer.flush()
    os._exit(0)  # TensorFlow's and tf-transform's threads and globals need not be taken down
