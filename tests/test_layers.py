"""Who may import whom: the three packages share data sets on disk, not code."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What no module of a package may import, anywhere in it: not even inside a function.
FORBIDDEN = {
    "schemas": {"beam_jobs", "loader", "apache_beam", "tensorflow", "tensorflow_metadata", "keras", "fsspec"},
    "beam_jobs": {"loader", "tensorflow", "tensorflow_datasets", "keras"},
    "loader": {"beam_jobs", "apache_beam", "tensorflow_datasets"},
}
# The one module that reaches other machines, when it is asked to: `test_importing_brings_nothing_heavy`.
ALLOWED = {("schemas/remote.py", "fsspec")}
# The transform step, of which a job without one imports these: `test_a_whole_job_imports_no_tensorflow`.
TRANSFORM = "beam_jobs/transform/"
WITHOUT_TENSORFLOW = {f"{TRANSFORM}{name}.py" for name in ("__init__", "look", "plan", "stages")}
HEAVY = (
    "apache_beam",
    "tensorflow",
    "keras",
    "tensorflow_datasets",
    "numpy",
    "pyarrow",
    "pydantic",
    "fsspec",
)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import in `file`."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; the house style is absolute"
            yield node.lineno, str(node.module).split(".")[0]


def imported_by(code: str) -> set[str]:
    """Which of HEAVY and of our packages a fresh interpreter has imported after `code`."""
    names = (*HEAVY, *FORBIDDEN)
    program = f"{code}\nimport json, sys\nprint(json.dumps([n for n in {names!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def _may_import_tensorflow(file: str) -> bool:
    return file.startswith(TRANSFORM) and file not in WITHOUT_TENSORFLOW


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_only_what_its_layer_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imports(file)
        if name in FORBIDDEN[package]
        and (str(file.relative_to(ROOT)), name) not in ALLOWED
        and not (name == "tensorflow" and _may_import_tensorflow(str(file.relative_to(ROOT))))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import schemas", {"apache_beam", "tensorflow", "keras", "beam_jobs", "loader"}),
        ("import schemas.remote, loader.dataset", {"fsspec"}),
        ("import beam_jobs", {"apache_beam", "tensorflow", "loader"}),
        ("from beam_jobs import load_job, run", {"tensorflow", "keras", "loader"}),
        ("import loader; loader.load", {"apache_beam", "beam_jobs"}),
    ],
)
def test_importing_brings_nothing_heavy(code: str, absent: set[str]) -> None:
    assert imported_by(code) & absent == set()


def test_help_imports_neither_beam_nor_tensorflow() -> None:
    code = """
import contextlib, io
from beam_jobs.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])
"""
    assert imported_by(code) & {"apache_beam", "tensorflow", "keras", "loader"} == set()


def test_a_whole_job_imports_no_tensorflow(tmp_path: Path) -> None:
    """Importing TensorFlow costs seconds and hundreds of megabytes in every worker."""
    (tmp_path / "rows.csv").write_text("key,x\na,1\nb,2\n")
    (tmp_path / "job.yaml").write_text(
        "name: tiny\nversion: 1.0.0\n"
        f"sources: {{rows: {{kind: csv, path: '{tmp_path}/rows.csv', key: key}}}}\n"
        "features: {x: {type: int64}}\n"
    )
    code = f"""
from beam_jobs import load_job, run
result = run(load_job({str(tmp_path / "job.yaml")!r}), out={str(tmp_path / "out")!r})
assert result.manifest.splits["train"].records == 2
"""
    assert imported_by(code) & {"tensorflow", "keras", "loader"} == set()
