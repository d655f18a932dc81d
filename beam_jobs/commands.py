"""What each command does; gives its exit code. Heavy imports wait until one needs them, so that `--help` is quick."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from schemas import HeadraceError


def init(arguments: argparse.Namespace) -> int:
    try:
        import fsspec  # noqa: F401  Beam, which takes a second to import, is not needed yet
        import PIL  # noqa: F401
    except ImportError as error:
        raise _no_etl("Looking at data", error) from error
    from beam_jobs.init_job import init_command

    told = init_command(arguments.data, arguments.output, force=arguments.force)
    if arguments.json and arguments.output != "-":
        print(json.dumps({"job": arguments.output}))
    elif told:
        print(told)
    return 0


def run(arguments: argparse.Namespace) -> int:
    # Beam greets its import with a warning about BigQuery, which no job here uses, and logs every error with
    # several tracebacks; the error itself reaches us, and the user, as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    _need_etl()
    from beam_jobs.memory import bound_memory, imports_uncollected

    bound_memory()
    with imports_uncollected() if arguments.own_process else contextlib.nullcontext():
        from beam_jobs.job import run, summary_lines
        from beam_jobs.planning import load_job
        from beam_jobs.preview import preview, preview_lines
        from beam_jobs.wire import WithoutKnownErrors

    # For good: the threads of a job that was stopped may still say so when all else is over.
    sys.stderr = WithoutKnownErrors(sys.stderr)
    job = load_job(arguments.job, _variables(arguments.var))
    if arguments.dry_run:
        found = preview(job, arguments.out, arguments.beam_options, from_scratch=arguments.from_scratch)
        text = "\n".join(preview_lines(found, " + ".join(job.spec.main_names)))
        print(json.dumps(found.to_json(), indent=1) if arguments.json else text)
        return 0
    if any(option.startswith("--dry_run") for option in arguments.beam_options):
        return _check_graph(arguments, job)
    result = run(
        job,
        arguments.out,
        arguments.beam_options,
        from_scratch=arguments.from_scratch,
        show_progress=not arguments.quiet,
    )
    if arguments.json:
        print(json.dumps(result.to_json(), indent=1))
    elif not arguments.quiet:
        print("\n".join(summary_lines(result)))
    return 0


def _check_graph(arguments: argparse.Namespace, job: Any) -> int:
    from beam_jobs.graph import check_graph

    graph = check_graph(job, arguments.out, arguments.beam_options)
    print(json.dumps(vars(graph)) if arguments.json else graph.line())
    return 0


def validate(arguments: argparse.Namespace) -> int:
    from schemas.load import fill_variables, load_spec

    spec = load_spec(arguments.job)
    values = {**spec.vars, **_variables(arguments.var)}
    for name, source in spec.sources.items():
        fill_variables(source.path, values, f"sources.{name}.path")
    if spec.expected is not None:
        from schemas.data_schema import load_data_schema

        load_data_schema(fill_variables(spec.expected.file, values, "schema.file"))
    if arguments.json:
        print(
            json.dumps(
                {"valid": True, "name": spec.name, "version": spec.version, "fingerprint": spec.fingerprint}
            )
        )
    else:
        print(f"{arguments.job} is a valid job: {spec.name} {spec.version}, {len(spec.features)} features.")
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    from beam_jobs.inspect_dataset import inspect_command

    return inspect_command(_local(arguments.directory), records=arguments.records, as_json=arguments.json)


def statistics(arguments: argparse.Namespace) -> int:
    from beam_jobs.statistics.show import statistics_command

    return statistics_command(arguments.directory, split=arguments.split, as_json=arguments.json)


def verify(arguments: argparse.Namespace) -> int:
    from beam_jobs.verify import verify_command

    return verify_command(_local(arguments.directory), as_json=arguments.json)


def diff(arguments: argparse.Namespace) -> int:
    from beam_jobs.diff import diff_command

    return diff_command(arguments.before, arguments.after, records=arguments.records, as_json=arguments.json)


def _local(directory: str) -> str:
    if "://" in directory:
        raise HeadraceError(
            "This command reads data sets of this machine only.",
            value=directory,
            allowed="a directory",
            hint="Copy it here first; `headrace diff` and the loader read it where it is.",
        )
    return directory


def profile(arguments: argparse.Namespace) -> int:
    # Found by name: this package and the loader never import each other.
    from importlib.metadata import entry_points

    found = list(entry_points(group="headrace.commands", name="profile"))
    if not found:
        raise HeadraceError(
            "This installation does not know its own commands.",
            value="no entry point profile in the group headrace.commands",
            hint="Install it again: pip install --force-reinstall 'headrace[loader]'",
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silence():
        command: Callable[[argparse.Namespace], int] = found[0].load()
    return command(arguments)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard error: TensorFlow greets on it, from C++, whatever its log level is."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def schema(_: argparse.Namespace) -> int:
    from schemas import job_schema

    print(json.dumps(job_schema(), indent=1))
    return 0


def schema_infer(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import infer_command

    return infer_command(arguments.version, arguments.output, force=arguments.force)


def schema_check(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import check_command

    return check_command(
        arguments.version, arguments.schema_file, arguments.against, arguments.skew, as_json=arguments.json
    )


def schema_update(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import update_command

    return update_command(arguments.schema_file, arguments.version, arguments.output)


def schema_export(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import export_command

    return export_command(arguments.schema_file, arguments.output, force=arguments.force)


def schema_import(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import import_command

    return import_command(arguments.schema_file, arguments.output, force=arguments.force)


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


def _need_etl() -> None:
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise _no_etl("Running jobs", error) from error


def _no_etl(what: str, error: ImportError) -> HeadraceError:
    return HeadraceError(
        f"{what} needs what is not installed.", value=str(error), hint="pip install 'headrace[etl]'"
    )
