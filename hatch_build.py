"""Compiles `loader/native.c`, the loader's native core, as part of installing Headrace.

A wheel holds the module `loader._native`; an editable install has it beside its source, which `python hatch_build.py`
does by itself. Where a compiler or libjpeg is missing nothing fails: one line says so, and the loader uses TensorFlow's
own operations. HEADRACE_NATIVE=require makes an error of that; HEADRACE_NATIVE=skip compiles nothing and leaves what
is there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "loader/native.c"
MODULE = f"loader/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
# Without -ffp-contract=off a compiler may fuse a multiplication with an addition, and round differently.
FLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-fvisibility=hidden",
    "-shared",
    "-Wall",
    "-Wextra",
]
LIBRARIES = ["-ljpeg", "-lm"]
# What gcc or clang and their linkers call missing.
MISSING = re.compile(r"fatal error: '?([\w./]+\.h)\b|find (?:library )?-l(\w+)")


class NotCompiledError(Exception):
    """Why there is no module."""


def build(root: Path, module: Path) -> bool:
    """Whether `module` was built. If not, it does not exist either, unless none is wanted."""
    wanted = os.environ.get("HEADRACE_NATIVE", "")
    if wanted not in ("", "require", "skip"):
        sys.exit(f"HEADRACE_NATIVE is {wanted!r}; it can be require, skip or nothing.")
    if wanted == "skip":
        return False
    try:
        compile_module(root, module)
    except NotCompiledError as error:
        module.unlink(missing_ok=True)  # one that stands there is of another source
        packages = "gcc libc6-dev libjpeg-dev"
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            packages += " python3-dev"
        message = (
            f"{error}, so {SOURCE} is not built and loading is slower: the same batches, by TensorFlow's own "
            f"operations. To have it: apt-get install {packages}, then install again."
        )
        if wanted == "require":
            sys.exit(f"{message} HEADRACE_NATIVE=require makes this an error.")
        sys.stderr.write(f"{message}\n")
        return False
    return True


def compile_module(root: Path, module: Path) -> None:
    """Compile the source below `root` into `module`, in one step: who has the old one loaded keeps it."""
    partial = module.with_name(f"{module.name}.{os.getpid()}")
    command = [*find_compiler(), *FLAGS, f"-I{sysconfig.get_path('include')}", SOURCE, "-o", str(partial)]
    try:
        done = subprocess.run(
            [*command, *LIBRARIES],
            cwd=root,
            env=os.environ | {"LC_ALL": "C"},
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode and (missing := MISSING.search(done.stderr)):
            raise NotCompiledError(f"{missing[1] or f'lib{missing[2]}'} is missing")
        sys.stderr.write(done.stderr)  # warnings, or what is wrong
        if done.returncode:
            raise NotCompiledError(f"{command[0]} failed")
        partial.replace(module)
    finally:
        partial.unlink(missing_ok=True)


def find_compiler() -> list[str]:
    """$CC, or that of Python, which need not be on this machine, or the usual ones."""
    named = os.environ.get("CC")
    for command in [named] if named else [sysconfig.get_config_var("CC") or "cc", "cc", "gcc", "clang"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise NotCompiledError(f"The C compiler CC={named} is missing" if named else "A C compiler is missing")


class NativeBuildHook(BuildHookInterface[Any]):
    """Builds the module before the wheel it belongs to."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            build(root, root / MODULE)
            return
        self.built = tempfile.TemporaryDirectory()
        module = Path(self.built.name, Path(MODULE).name)
        if build(root, module):
            build_data["force_include"][str(module)] = MODULE
            build_data |= {"pure_python": False, "infer_tag": True}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.built.cleanup()


if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parent
    build(ROOT, ROOT / MODULE)
