"""The `headrace` command. Heavy imports wait until a command needs them, so that `--help` is quick."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from schemas import HeadraceError, __version__

_M_ARENA_MAX = -8  # of glibc's malloc.h
_EXIT_CODES = "Exit codes: 0 done, 1 an error or a difference found, 2 wrong usage, 130 stopped by Ctrl-C."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives its exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not _run:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.beam_options = rest
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
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # A stopped or failed pipeline may leave threads of Beam behind that never end.
        os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Prepare data sets for deep learning: deterministic, checked, sharded TFRecords.",
        epilog="Start with: headrace run JOB.yaml\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_validate(commands)
    _add_inspect(commands)
    _add_verify(commands)
    schema = _add(
        commands, "schema", _schema, "print the JSON Schema of job files, for editors", ["headrace schema"]
    )
    schema.set_defaults(json=True)
    return parser


def _add(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], summary: str, examples: list[str]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples) + "\n\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_run(commands: Any) -> None:
    parser = _add(
        commands,
        "run",
        _run,
        "prepare the data set that a job file describes",
        [
            "headrace run job.yaml                              # all cores of this machine",
            "headrace run job.yaml --var data=photos --out sets # paths from here",
            "headrace run job.yaml --direct_num_workers=4       # any option of Beam's",
            "headrace run job.yaml --direct_running_mode=multi_processing",
        ],
    )
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument("--out", default="out", help="directory of all data sets (default: out)")
    parser.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="value of a ${variable}"
    )
    parser.add_argument("--keep-work", action="store_true", help="keep the runs for a later version to reuse")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_validate(commands: Any) -> None:
    parser = _add(
        commands,
        "validate",
        _validate,
        "check a job file without reading any data",
        ["headrace validate job.yaml", "headrace validate job.yaml --json"],
    )
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="value of a ${variable}"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_inspect(commands: Any) -> None:
    parser = _add(
        commands,
        "inspect",
        _inspect,
        "show what is in a data set: splits, features, books, dead letters, a few records",
        ["headrace inspect out/elpv/1.0.0", "headrace inspect out/elpv/1.0.0 --records 10 --json"],
    )
    parser.add_argument("directory", metavar="DIR", help="directory of one version")
    parser.add_argument(
        "--records", type=int, default=3, metavar="N", help="records to show of each split (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _add_verify(commands: Any) -> None:
    parser = _add(
        commands,
        "verify",
        _verify,
        "check every SHA-256, CRC, count and index of a data set against its bytes",
        ["headrace verify out/elpv/1.0.0", "headrace verify out/elpv/1.0.0 --json"],
    )
    parser.add_argument("directory", metavar="DIR", help="directory of one version")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(arguments: argparse.Namespace) -> int:
    # Beam greets its import with a warning about BigQuery, which no job here uses, and logs every error with
    # several tracebacks; the error itself reaches us, and the user, as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    _need_etl()
    _bound_memory()
    from beam_jobs.job import run, summary_lines
    from beam_jobs.plan import load_job

    job = load_job(arguments.job, _variables(arguments.var))
    result = run(
        job,
        arguments.out,
        arguments.beam_options,
        keep_work=arguments.keep_work,
        show_progress=not arguments.quiet,
    )
    if arguments.json:
        print(json.dumps(result.to_json(), indent=1))
    elif not arguments.quiet:
        print("\n".join(summary_lines(result)))
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from schemas.load import fill_variables, load_spec

    spec = load_spec(arguments.job)
    values = {**spec.vars, **_variables(arguments.var)}
    for name, source in spec.sources.items():
        fill_variables(source.path, values, f"sources.{name}.path")
    if arguments.json:
        print(
            json.dumps(
                {"valid": True, "name": spec.name, "version": spec.version, "fingerprint": spec.fingerprint}
            )
        )
    else:
        print(f"{arguments.job} is a valid job: {spec.name} {spec.version}, {len(spec.features)} features.")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from beam_jobs.inspect_dataset import inspect_command

    return inspect_command(arguments.directory, records=arguments.records, as_json=arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from beam_jobs.verify import verify_command

    return verify_command(arguments.directory, as_json=arguments.json)


def _schema(_: argparse.Namespace) -> int:
    from schemas import job_schema

    print(json.dumps(job_schema(), indent=1))
    return 0


def _variables(pairs: list[str]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise HeadraceError(
                "A variable needs a value.", value=f"--var {pair}", allowed="--var NAME=VALUE"
            )
        values[name] = value
    return values


def _bound_memory() -> None:
    """Keeps freed memory from piling up: glibc would give every new thread of Beam's a heap of its own."""
    arenas = "2"
    os.environ.setdefault("MALLOC_ARENA_MAX", arenas)  # for worker processes
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such function
        mallopt(_M_ARENA_MAX, int(arenas))


def _need_etl() -> None:
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise HeadraceError(
            "Running jobs needs Apache Beam, which is not installed.",
            value=str(error),
            hint="pip install 'headrace[etl]'",
        ) from error


def _report(error: HeadraceError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.to_json()}, indent=1))
    else:
        print(f"headrace: {error}", file=sys.stderr)
