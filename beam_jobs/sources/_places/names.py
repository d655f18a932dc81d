"""Names of files and places, for programs and for people."""

from __future__ import annotations

import os
from pathlib import Path


def local_root(root: str) -> str | None:
    """The local path that `root` names, or None where it is a URL of another file system."""
    for scheme in ("file://", "local://"):
        if root.startswith(scheme):
            return root.removeprefix(scheme)
    return None if "://" in root or "::" in root else os.path.expanduser(root)  # noqa: PTH111


def shown(path: str) -> str:
    """`path` as people see it: bytes that are no UTF-8 appear as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def nearby(missing: str) -> str | None:
    """For people: what there is where `missing` was looked for, if that is a local place."""
    local = local_root(missing)
    if local is None:
        return None
    parent = Path(local).absolute()
    while not parent.is_dir():
        parent = parent.parent
    try:
        names = sorted(child.name + ("/" if child.is_dir() else "") for child in parent.iterdir())
    except OSError:
        return f"{parent} exists but cannot be read."
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return shown(f"{parent} holds {', '.join(names[:10]) or 'nothing'}{more}.")
