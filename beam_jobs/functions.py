"""The user's own functions, by their dotted names."""

from __future__ import annotations

import hashlib
import importlib
import inspect
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
