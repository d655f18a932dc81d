"""What a scan of a whole source found, kept for the next instance of that source in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

_SCANS = 8
_kept: OrderedDict[str, Any] = OrderedDict()
_lock = threading.Lock()
T = TypeVar("T")


def scanned_once(identity: str | None, scan: Callable[[], T]) -> T:
    """What `scan` finds, or found before for the same identity; None is an identity that never comes again."""
    with _lock:
        if identity is not None and identity in _kept:
            _kept.move_to_end(identity)
            return _kept[identity]
    found = scan()
    if identity is not None:
        with _lock:
            _kept[identity] = found
            while len(_kept) > _SCANS:
                _kept.popitem(last=False)
    return found
