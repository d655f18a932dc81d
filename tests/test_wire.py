"""What of Beam's laments reaches standard error."""

from __future__ import annotations

import contextlib
import io
import sys

from beam_jobs.wire import WithoutKnownErrors

LAMENT = "Traceback (most recent call last):\n  in release\nKeyError: 'inst007'\n"


def test_tracebacks_of_a_job_that_was_stopped_are_held_back() -> None:
    stream = io.StringIO()
    printed = WithoutKnownErrors(stream)
    with contextlib.redirect_stderr(printed):
        outer = WithoutKnownErrors(sys.stderr)
    print(LAMENT, file=outer)
    assert stream.getvalue() == LAMENT + "\n"
    printed.stopped = True
    print(LAMENT, file=outer)
    print("Stopped.", file=outer)
    print(file=outer)
    assert stream.getvalue() == LAMENT + "\nStopped.\n\n"
