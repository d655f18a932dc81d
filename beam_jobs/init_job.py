"""A job file from data: `headrace init`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from beam_jobs.files import atomic_file, write_all
from beam_jobs.starter.findings import find
from beam_jobs.starter.place import without_secrets
from beam_jobs.starter.write import write
from schemas.errors import HeadraceError
from schemas.load import parse_spec


def init_job(data: Sequence[str]) -> str:
    """The text of a job that reads what lies at some paths or URLs, with comments that say why.

    A sample of each source is read, the same one every time. No secret of a URL is in the text, nor in errors.

    Raises:
      HeadraceError: there is nothing to read, or it cannot be read.
    """
    try:
        text = write(find(data), data)
        parse_spec(text, "the job that `headrace init` wrote")
    except HeadraceError as error:
        raise _masked(error, data) from None
    return text


def init_command(data: Sequence[str], output: str, *, force: bool) -> str:
    """Writes a job file, to standard output where that is `-`; gives what to say of it.

    Raises:
      HeadraceError: as `init_job`, or the file exists or cannot be written.
    """
    path = Path(output)
    if output != "-" and path.exists() and not force:
        raise HeadraceError(
            "The file exists already; nothing was written.",
            where=output,
            hint="Give another name with --output, or --force to replace it.",
        )
    text = init_job(data)
    if output == "-":
        sys.stdout.write(text)
        return ""
    with atomic_file(path, durable=False) as file:
        write_all(file, text.encode())
    return f"Wrote {output}. Read it, delete what you do not need, then: headrace run {shlex.quote(output)}"


def _masked(error: HeadraceError, data: Sequence[str]) -> HeadraceError:
    parts = error.to_json()
    for given in data:
        secrets = {given: without_secrets(given), given.rstrip("/"): without_secrets(given).rstrip("/")}
        if "://" in given:
            user = given.partition("://")[2].partition("/")[0].rpartition("@")[0]
            secrets |= dict.fromkeys([text for text in (given.partition("?")[2], user) if text], "…")
        for secret, safe in secrets.items():
            parts = {part: text and text.replace(secret, safe) for part, text in parts.items()}
    what = parts.pop("what") or ""
    return HeadraceError(what, **parts)
