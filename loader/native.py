"""The native core, `loader._native`, or None where it was not built.

Without it the same batches are made by TensorFlow's operations and NumPy, bit for bit, at a third to three quarters
of the speed.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

core: Any

try:
    from loader import _native
except ImportError:  # no compiler or no libjpeg when Headrace was installed
    core = None
else:
    core = _native


def require() -> ModuleType:
    """The core, where the caller knows that there is one."""
    assert core is not None
    found: ModuleType = core
    return found
