"""The house: public names, the editors' schema, the scripts, and the wheel in a clean environment."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import schemas

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("beam_jobs", "loader", "schemas")
SCRIPTS = ("install", "check", "test", "build", "schema", "quickstart", "bench/run", "engines")


@pytest.mark.parametrize("package", PACKAGES)
class TestPublicNames:
    def test_all_is_complete(self, package: str) -> None:
        module = importlib.import_module(package)
        here = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "").split(".")[0] == package
        }
        assert here <= set(module.__all__)

    def test_all_is_sorted(self, package: str) -> None:
        names = importlib.import_module(package).__all__
        assert list(names) == sorted(names)

    def test_every_name_exists_and_says_what_it_is(self, package: str) -> None:
        module = importlib.import_module(package)
        assert (module.__doc__ or "").strip()
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                assert (inspect.getdoc(value) or "").strip(), f"{package}.{name} has no docstring"

    def test_is_typed(self, package: str) -> None:
        assert (ROOT / package / "py.typed").is_file()


def test_one_version() -> None:
    told = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert told is not None
    assert schemas.__version__ == told[1]
    assert f"## [{told[1]}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_editor_schema_is_up_to_date() -> None:
    written = json.loads((ROOT / "schemas/job.schema.json").read_text("utf-8"))
    assert written == schemas.job_schema(), "run scripts/schema"


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_executable_and_parses(name: str) -> None:
    script = ROOT / "scripts" / name
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text("utf-8")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_pages_name_what_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    missing = [
        path
        for path in re.findall(
            r"(?:\./)?((?:scripts|beam_jobs|schemas|loader|tests|\.ci)/[\w./-]*[\w/])", text
        )
        if not (ROOT / path).exists()
    ]
    assert missing == []
    for command in re.findall(r"^\$? ?headrace (\w+)", text, re.M):
        assert command in {
            "init", "run", "validate", "inspect", "verify", "diff", "profile", "schema", "statistics",
        }  # fmt: skip


@pytest.mark.parametrize("bench", sorted(p.name for p in (ROOT / "scripts/bench").glob("[!c]*.py")))
def test_bench_explains_itself(bench: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/bench" / bench, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "usage:" in done.stdout


# Where the native core could be built, or has to be, the wheel has it.
NATIVE = os.environ.get("HEADRACE_NATIVE") == "require" or any((ROOT / "loader").glob("_native.*.so"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", directory, ROOT],
        check=True, capture_output=True, timeout=300,
        env=os.environ | {"HEADRACE_NATIVE": "require" if NATIVE else "skip"},
    )  # fmt: skip
    (built,) = directory.glob("*.whl")
    return built


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, f"headrace-{schemas.__version__}.dist-info"}
    wanted = {f"{p}/py.typed" for p in PACKAGES} | {"schemas/job.schema.json", "beam_jobs/jobs/elpv.yaml"}
    assert wanted <= set(names)
    compiled = {name for name in names if not name.endswith((".py", ".pyi")) and "native" in name}
    assert compiled == ({f"loader/_native{sysconfig.get_config_var('EXT_SUFFIX')}"} if NATIVE else set())
    assert wheel.stem.endswith("-py3-none-any") is not NATIVE


JOB = """
name: tiny
version: 1.0.0
sources: {rows: {kind: csv, path: rows.csv, key: key}}
features: {x: {type: int64}, y: {type: float32}}
label: x
"""


@pytest.mark.parametrize("extra", ["etl", "loader"])
def test_wheel_works_in_a_clean_environment(wheel: Path, extra: str, tmp_path: Path) -> None:
    """Each extra brings all its half needs, and not the other half."""
    other = {"etl": "tensorflow", "loader": "apache_beam"}[extra]
    python = _environment(tmp_path / "venv", f"{wheel}[{extra}]")
    _run(
        python,
        "-c",
        f"import importlib.util as u, sys; sys.exit(u.find_spec({other!r}) is not None)",
        cwd=tmp_path,
    )
    (tmp_path / "rows.csv").write_text("key,x,y\n" + "".join(f"k{i},{i},{i / 4}\n" for i in range(10)))
    (tmp_path / "job.yaml").write_text(JOB)
    if extra == "etl":
        console = python.with_name("headrace")
        told = json.loads(_run(console, "run", "job.yaml", "--json", cwd=tmp_path))
        assert told["splits"]["train"]["records"] == 10
        _run(console, "verify", told["path"], cwd=tmp_path)
    else:
        _run(Path(sys.executable).with_name("headrace"), "run", "job.yaml", "--quiet", cwd=tmp_path)
        read = (
            "from loader import load\n"
            "dataset = load('out/tiny/1.0.0', 'train', batch_size=5, shuffle=False)\n"
            "print(sum(int(x.shape[0]) for _, x in dataset))\n"
        )
        assert _run(python, "-c", read, cwd=tmp_path).split()[-1] == "10"
        if NATIVE:
            _run(python, "-c", "import loader._native", cwd=tmp_path)


def _environment(directory: Path, requirement: str) -> Path:
    """The Python of a new virtual environment that holds `requirement`."""
    code = """
        cd "$1"
        . "$2"
        VENV=$3
        PATH=${PATH#*:} make_venv
        pip_install "$4"
    """
    arguments = [str(directory.parent), str(ROOT / "scripts/lib.sh"), directory.name, requirement]
    environment = _outside() | {"PYTHON": sys.executable}
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code, "-", *arguments], check=True, env=environment, timeout=540
    )
    return directory / "bin/python"


def _outside() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}


def _run(program: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=_outside(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
