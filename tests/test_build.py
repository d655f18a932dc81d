"""Building: the native core with it, and without it where it is not wanted or cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import hatch_build

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = os.environ.get("HEADRACE_NATIVE") == "require"
SOURCE = """
#include <Python.h>
#include <stdio.h>
#include <jpeglib.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__native(void) {
  struct jpeg_error_mgr errors;
  return jpeg_std_error(&errors) ? PyModule_Create(&module) : NULL;
}
"""

compiles = pytest.mark.skipif(
    not REQUIRED and not (ROOT / hatch_build.MODULE).exists(),
    reason="the native core could not be built here",
)


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_NATIVE", raising=False)
    monkeypatch.delenv("CC", raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a module that is compiled in no time."""
    (tmp_path / "tree/loader").mkdir(parents=True)
    (tmp_path / "tree" / hatch_build.SOURCE).write_text(SOURCE)
    return tmp_path / "tree"


@pytest.fixture
def complaining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `$CC` prints before it fails."""
    (tmp_path / "cc").write_text('#!/bin/sh\ncat "$0.says" >&2\nexit 1\n')
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    return tmp_path / "cc.says"


def hook(tree: Path) -> hatch_build.NativeBuildHook:
    return hatch_build.NativeBuildHook(str(tree), {}, None, None, str(tree / "dist"), "wheel")  # type: ignore[arg-type]


def files(tree: Path) -> list[str]:
    return sorted(path.name for path in (tree / "loader").iterdir())


def wheel(directory: Path) -> tuple[str, set[str]]:
    """The name of a wheel of the working tree, and what is in it."""
    (path,) = map(Path, WheelBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"]))
    with zipfile.ZipFile(path) as archive:
        return path.name, set(archive.namelist())


def assert_pure(built: tuple[str, set[str]]) -> None:
    name, names = built
    assert name.endswith("-py3-none-any.whl")
    assert "loader/__init__.py" in names
    assert not [name for name in names if name.endswith((".so", ".c"))]


@pytest.mark.skipif(not REQUIRED, reason="HEADRACE_NATIVE is not require")
def test_native_core_is_here_where_it_is_required() -> None:
    subprocess.run([sys.executable, "-c", "import loader._native"], check=True, cwd=ROOT)


def test_sdist_holds_what_the_native_core_is_built_from(tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"hatch_build.py", "loader/native.c", "loader/native_huffman.h", "pyproject.toml"} <= names
    assert hatch_build.MODULE not in names


@compiles
class TestBuilt:
    def test_an_editable_install_has_it_beside_its_source(self, tree: Path) -> None:
        data: dict[str, Any] = {}
        hook(tree).initialize("editable", data)
        assert data == {}
        assert files(tree) == [Path(hatch_build.MODULE).name, "native.c"]
        subprocess.run([sys.executable, "-c", "import _native"], check=True, cwd=tree / "loader")

    def test_an_old_one_is_replaced_not_overwritten(self, tree: Path) -> None:
        old = tree / hatch_build.MODULE
        old.write_text("old")
        with old.open() as loaded:
            hook(tree).initialize("editable", {})
            assert loaded.read() == "old"
        assert old.read_bytes().startswith(b"\x7fELF")

    def test_a_wheel_has_it_and_a_platform(self, tree: Path) -> None:
        data: dict[str, Any] = {"force_include": {}, "pure_python": True, "infer_tag": False}
        building = hook(tree)
        building.initialize("standard", data)
        ((path, name),) = data["force_include"].items()
        assert (name, data["pure_python"], data["infer_tag"]) == (hatch_build.MODULE, False, True)
        assert Path(path).is_file()
        assert files(tree) == ["native.c"]
        building.finalize("standard", data, "")
        assert not Path(path).parent.exists()

    def test_no_path_of_this_machine_is_in_it(self, tree: Path) -> None:
        hook(tree).initialize("editable", {})
        assert str(tree).encode() not in (tree / hatch_build.MODULE).read_bytes()


class TestLeftOut:
    def test_skip_gives_a_pure_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HEADRACE_NATIVE", "skip")
        assert_pure(wheel(tmp_path))

    def test_skip_leaves_what_another_install_built(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tree / hatch_build.MODULE).write_text("built")
        monkeypatch.setenv("HEADRACE_NATIVE", "skip")
        hook(tree).initialize("editable", {})
        assert (tree / hatch_build.MODULE).read_text() == "built"

    def test_without_a_compiler_the_wheel_is_pure_and_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CC", "/nonexistent/cc")
        assert_pure(wheel(tmp_path))
        said = capfd.readouterr().err
        assert said.startswith(
            "The C compiler CC=/nonexistent/cc is missing, so loader/native.c is not built"
        )
        assert "the same batches" in said
        assert "apt-get install gcc libc6-dev libjpeg-dev" in said
        assert said.count("\n") == 1

    @pytest.mark.parametrize(
        ("printed", "missing"),
        [
            ("native.c:3:10: fatal error: jpeglib.h: No such file or directory", "jpeglib.h"),
            ("native.c:3:10: fatal error: 'jpeglib.h' file not found", "jpeglib.h"),
            ("/usr/bin/ld: cannot find -ljpeg: No such file or directory", "libjpeg"),
            ("ld.lld: error: unable to find library -ljpeg", "libjpeg"),
        ],
    )
    def test_what_is_missing_is_named(
        self, tree: Path, complaining: Path, printed: str, missing: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        complaining.write_text(f"{printed}\n")
        hook(tree).initialize("editable", {})
        assert capfd.readouterr().err.startswith(f"{missing} is missing, so")

    def test_what_else_is_wrong_is_shown(
        self, tree: Path, complaining: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        complaining.write_text("native.c:1:1: error: unknown type name 'ink'\n")
        hook(tree).initialize("editable", {})
        said = capfd.readouterr().err
        assert said.startswith(complaining.read_text())
        assert f"{complaining.with_suffix('')} failed, so" in said

    def test_one_of_another_source_does_not_stay(self, tree: Path, complaining: Path) -> None:
        complaining.write_text("error\n")
        (tree / hatch_build.MODULE).write_text("old")
        hook(tree).initialize("editable", {})
        assert files(tree) == ["native.c"]

    def test_require_makes_it_an_error(
        self, tree: Path, complaining: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complaining.write_text("fatal error: jpeglib.h: No such file or directory\n")
        monkeypatch.setenv("HEADRACE_NATIVE", "require")
        with pytest.raises(SystemExit, match=r"jpeglib\.h is missing.*HEADRACE_NATIVE=require"):
            hook(tree).initialize("editable", {})

    def test_another_word_is_refused(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HEADRACE_NATIVE", "required")
        with pytest.raises(SystemExit, match="'required'; it can be require, skip"):
            hook(tree).initialize("editable", {})
