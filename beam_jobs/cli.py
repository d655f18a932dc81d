"""The `headrace` command. Heavy imports wait until a command needs them, so that `--help` is quick."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from schemas import HeadraceError, __version__

_EXIT_CODES = "Exit codes: 0 done, 1 an error or a difference found, 2 wrong usage, 130 stopped by Ctrl-C."


def main(argv: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Runs a command, maybe in a process that does nothing else; gives its exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not _run:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Prepare data sets for deep learning: deterministic, checked, sharded TFRecords.",
        epilog="Start with: headrace init FOLDER, which writes a job for what is in it\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_init(commands)
    _add_run(commands)
    _add_validate(commands)
    _add_inspect(commands)
    _add_statistics(commands)
    _add_verify(commands)
    _add_diff(commands)
    _add_profile(commands)
    _add_schema(commands)
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


def _add_init(commands: Any) -> None:
    parser = _add(
        commands,
        "init",
        _init,
        "look at data and write a job file that reads them, with comments to edit it by",
        [
            "headrace init photos                               # a folder of images in folders of their classes",
            "headrace init photos labels.csv                    # or with a table that names them",
            "headrace init rows.csv --output rows.yaml",
            "headrace init gs://bucket/shards --output -        # to standard output",
        ],
    )
    parser.add_argument("data", nargs="+", metavar="PATH_OR_URL")
    parser.add_argument(
        "--output",
        default="job.yaml",
        metavar="FILE",
        help="to write, - for standard output (default: job.yaml)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--json", action="store_true", help="print errors and the file's name as JSON")


def _add_run(commands: Any) -> None:
    parser = _add(
        commands,
        "run",
        _run,
        "prepare the data set that a job file describes",
        [
            "headrace run job.yaml                              # all cores of this machine",
            "headrace run job.yaml --var data=photos --out sets # paths from here",
            "headrace run job.yaml --out gs://bucket/sets       # or s3://…",
            "headrace run job.yaml --direct_num_workers=4       # any option of Beam's",
            "headrace run job.yaml --direct_running_mode=multi_processing",
            "headrace run job.yaml --dry-run                    # what would be read, reused and written",
            "headrace run job.yaml --runner=PrismRunner --prism_location=…/prism",
            "headrace run job.yaml --runner=FlinkRunner --flink_master=HOST:8081 --flink_job_server_jar=….jar",
        ],
    )
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument(
        "--out", default="out", help="directory of all data sets, or gs://…, s3://… (default: out)"
    )
    parser.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="value of a ${variable}"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be read, reused and written")
    parser.add_argument(
        "--from-scratch", action="store_true", help="take nothing over from an earlier version"
    )
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


def _add_statistics(commands: Any) -> None:
    parser = _add(
        commands,
        "statistics",
        _statistics,
        "show what the values of a data set look like, for each feature and split",
        [
            "headrace statistics out/elpv/1.0.0",
            "headrace statistics gs://bucket/elpv/1.0.0 --split train",
            "headrace statistics out/elpv/1.0.0 --json",
        ],
    )
    parser.add_argument("directory", metavar="DIR_OR_URL", help="directory of one version")
    parser.add_argument("--split", metavar="NAME", help="only this split")
    parser.add_argument("--json", action="store_true", help="print them as statistics.json has them")


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


def _add_diff(commands: Any) -> None:
    parser = _add(
        commands,
        "diff",
        _diff,
        "show what changed between two versions: records, shards, features, job, books",
        ["headrace diff out/elpv/1.0.0 out/elpv/1.1.0", "headrace diff OLD NEW --records 5 --json"],
    )
    for which in ("before", "after"):
        parser.add_argument(which, metavar=which.upper(), help="directory of one version, or its URL")
    parser.add_argument(
        "--records", type=int, default=0, metavar="N", help="examples of each kind of change (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _add_profile(commands: Any) -> None:
    parser = _add(
        commands,
        "profile",
        _profile,
        "measure what bounds the speed of loading a data set, and what would make it faster",
        [
            "headrace profile out/elpv/1.0.0",
            "headrace profile out/photos/1.0.0 --image-size 224 --batch-size 128 --step-ms 30",
            "headrace profile out/trips/1.0.0 --split 'train[:10%]' --json",
        ],
    )
    parser.add_argument("directory", metavar="DIR", help="directory of one version, or its URL")
    parser.add_argument("--split", default="train", help="or a part of one (default: train)")
    parser.add_argument(
        "--step-ms", type=_positive, default=50.0, metavar="MS", help="of the accelerator (default: 50)"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples (default: 64)")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="as stored, or 224 where sizes differ, if absent"
    )
    parser.add_argument(
        "--augment",
        default="standard",
        metavar="PRESET",
        help="light, standard, strong or none (default: standard)",
    )
    parser.add_argument(
        "--cache", metavar="KIND", help="memory, disk or auto: measure an epoch from the cache"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="all processors if absent")
    parser.add_argument(
        "--seconds", type=_positive, default=20.0, metavar="S", help="to spend, about (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _add_schema(commands: Any) -> None:
    parser = _add(
        commands,
        "schema",
        _schema,
        "infer, check, update, export or import a schema of data; alone: print the JSON Schema of jobs, for editors",
        [
            "headrace schema                                    # of job files",
            "headrace schema infer out/elpv/1.0.0               # writes schema.yaml",
            "headrace schema check out/elpv/1.1.0 --schema schema.yaml --against out/elpv/1.0.0",
            "headrace schema export schema.yaml                 # to schema.pbtxt, for TFX's tools",
        ],
    )
    parser.set_defaults(json=True)
    kinds = parser.add_subparsers(title="commands", metavar="[COMMAND]")
    infer = _add(
        kinds,
        "infer",
        _schema_infer,
        "write a commented schema that the statistics of a version fit, with room for the next one",
        ["headrace schema infer out/elpv/1.0.0", "headrace schema infer statistics.json --output -"],
    )
    infer.add_argument("version", metavar="DIR", help="a version's directory or URL, or a statistics.json")
    _add_output(infer, "schema.yaml")
    check = _add(
        kinds,
        "check",
        _schema_check,
        "compare the statistics of a version with a schema; exit 1 if there are anomalies",
        [
            "headrace schema check out/elpv/1.0.0 --schema schema.yaml",
            "headrace schema check NEW --schema schema.yaml --against OLD --skew train validation",
        ],
    )
    check.add_argument("version", metavar="DIR", help="a version's directory or URL, or a statistics.json")
    check.add_argument("--schema", required=True, metavar="FILE", dest="schema_file", help="the schema")
    check.add_argument("--against", metavar="OLD", help="measure drift from this version")
    check.add_argument(
        "--skew",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help="measure skew between the first and each of the others",
    )
    check.add_argument("--json", action="store_true", default=False, help="print the anomalies as JSON")
    update = _add(
        kinds,
        "update",
        _schema_update,
        "widen the bounds of a schema that a version breaks; comments and all else stay as they are",
        [
            "headrace schema update schema.yaml out/elpv/1.1.0",
            "headrace schema update schema.yaml DIR --output -",
        ],
    )
    update.add_argument("schema_file", metavar="FILE", help="the schema")
    update.add_argument("version", metavar="DIR", help="a version's directory or URL, or a statistics.json")
    update.add_argument(
        "-o", "--output", metavar="OTHER", help="to write, - for standard output (default: FILE)"
    )
    update.set_defaults(json=False)
    export = _add(
        kinds,
        "export",
        _schema_export,
        "write a schema as tensorflow_metadata's, for TFX's tools; what that cannot hold is kept in comments",
        ["headrace schema export schema.yaml --output schema.pbtxt"],
    )
    export.add_argument("schema_file", metavar="FILE", help="a schema")
    _add_output(export, "schema.pbtxt")
    back = _add(
        kinds,
        "import",
        _schema_import,
        "write a schema from tensorflow_metadata's, such as TFX's SchemaGen writes",
        ["headrace schema import schema.pbtxt --output schema.yaml"],
    )
    back.add_argument("schema_file", metavar="FILE", help="a Schema as protobuf text")
    _add_output(back, "schema.yaml")


def _add_output(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "-o",
        "--output",
        default=name,
        metavar="FILE",
        help=f"to write, - for standard output (default: {name})",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.set_defaults(json=False)


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")


def _init(arguments: argparse.Namespace) -> int:
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


def _run(arguments: argparse.Namespace) -> int:
    # Beam greets its import with a warning about BigQuery, which no job here uses, and logs every error with
    # several tracebacks; the error itself reaches us, and the user, as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    _need_etl()
    from beam_jobs.memory import bound_memory, imports_uncollected

    bound_memory()
    with imports_uncollected() if arguments.own_process else contextlib.nullcontext():
        from beam_jobs.job import run, summary_lines
        from beam_jobs.plan import load_job
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


def _validate(arguments: argparse.Namespace) -> int:
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


def _inspect(arguments: argparse.Namespace) -> int:
    from beam_jobs.inspect_dataset import inspect_command

    return inspect_command(_local(arguments.directory), records=arguments.records, as_json=arguments.json)


def _statistics(arguments: argparse.Namespace) -> int:
    from beam_jobs.statistics.show import statistics_command

    return statistics_command(arguments.directory, split=arguments.split, as_json=arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from beam_jobs.verify import verify_command

    return verify_command(_local(arguments.directory), as_json=arguments.json)


def _diff(arguments: argparse.Namespace) -> int:
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


def _profile(arguments: argparse.Namespace) -> int:
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


def _schema(_: argparse.Namespace) -> int:
    from schemas import job_schema

    print(json.dumps(job_schema(), indent=1))
    return 0


def _schema_infer(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import infer_command

    return infer_command(arguments.version, arguments.output, force=arguments.force)


def _schema_check(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import check_command

    return check_command(
        arguments.version, arguments.schema_file, arguments.against, arguments.skew, as_json=arguments.json
    )


def _schema_update(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import update_command

    return update_command(arguments.schema_file, arguments.version, arguments.output)


def _schema_export(arguments: argparse.Namespace) -> int:
    from beam_jobs.data_schema.command import export_command

    return export_command(arguments.schema_file, arguments.output, force=arguments.force)


def _schema_import(arguments: argparse.Namespace) -> int:
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


def _report(error: HeadraceError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.to_json()}, indent=1))
    else:
        print(f"headrace: {error}", file=sys.stderr)
