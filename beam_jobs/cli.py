"""The `headrace` command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from beam_jobs import commands
from beam_jobs.parser import make_parser
from schemas import HeadraceError


def main(argv: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Runs a command, maybe in a process that does nothing else; gives its exit code."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not commands.run:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.beam_options, arguments.own_process = rest, own_process
    try:
        code = arguments.command(arguments)
    except HeadraceError as error:
        _report(error, as_json=arguments.json)
        code = 130 if isinstance(error.__context__, KeyboardInterrupt) else 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return int(code)


def entry() -> None:
    """The console command."""
    code = main(own_process=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        if (files := sys.modules.get("beam_jobs.files")) is not None:
            files.remove_scratch()
        # A stopped or failed pipeline may leave threads of Beam behind that never end.
        os._exit(code)


def _report(error: HeadraceError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.to_json()}, indent=1))
    else:
        print(f"headrace: {error}", file=sys.stderr)
