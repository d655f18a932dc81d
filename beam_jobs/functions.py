"""The user's own functions, by their dotted names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas import HeadraceError


def load_function(dotted: str, where: str) -> Callable[..., Any]:
    """The function that `module.path:name` names; `where` is where the job names it.

    Raises:
      HeadraceError: there is none.
    """
    module_name, name = dotted.split(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise HeadraceError(
            "A user function cannot be imported.",
            where=where,
            value=str(error),
            allowed="module.path:function, importable from the folder you run in or installed",
        ) from error
    if not callable(function):
        raise HeadraceError("This is no function.", where=where, value=repr(function))
    loaded: Callable[..., Any] = function
    return loaded


def function_fingerprint(dotted: str, where: str) -> str:
    """Content hash of the file that a user function is written in: it changes when the code may have."""
    file = inspect.getsourcefile(inspect.unwrap(load_function(dotted, where)))
    return "" if file is None else hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()


def source_fingerprint(dotted: str, where: str) -> str:
    """Content hash of the file of a user function's module, which is not imported: it may bring TensorFlow.

    Raises:
      HeadraceError: there is no such module.
    """
    module = dotted.split(":", maxsplit=1)[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise HeadraceError(
            "The module of a user function is not found.",
            where=where,
            value=module,
            allowed="module.path:function, importable from the folder you run in or installed",
        )
    return hashlib.blake2b(Path(found.origin).read_bytes(), digest_size=16).hexdigest()


def user_failure(error: Exception, where: str) -> HeadraceError:
    """The error that tells of an exception in the user's code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    # The file's name without its folder: errors are kept in logs, and say nothing of the machine.
    place = f"{frame.filename.rpartition('/')[2]}, line {frame.lineno}"
    return HeadraceError(
        "A user function failed.",
        where=where,
        value=f"{type(error).__name__}: {error}",
        hint=f"It was raised in {place}. A record that cannot be used is better yielded as it is and refused later.",
    )
