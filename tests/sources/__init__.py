"""Tests of the sources; `conformance` is the suite that every kind of source passes."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.conformance")
