"""What the `headrace` command takes."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from typing import Any

from beam_jobs import commands
from schemas import __version__

_EXIT_CODES = "Exit codes: 0 done, 1 an error or a difference found, 2 wrong usage, 130 stopped by Ctrl-C."


def make_parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it finds is the function of `beam_jobs.commands` to call."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Prepare data sets for deep learning: deterministic, checked, sharded TFRecords.",
        epilog="Start with: headrace init FOLDER, which writes a job for what is in it\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_init(subparsers)
    _add_run(subparsers)
    _add_validate(subparsers)
    _add_inspect(subparsers)
    _add_statistics(subparsers)
    _add_verify(subparsers)
    _add_diff(subparsers)
    _add_profile(subparsers)
    _add_schema(subparsers)
    return parser


def _add(
    subparsers: Any,
    name: str,
    command: Callable[[argparse.Namespace], int],
    summary: str,
    examples: list[str],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples) + "\n\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_init(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "init",
        commands.init,
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


def _add_run(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "run",
        commands.run,
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


def _add_validate(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "validate",
        commands.validate,
        "check a job file without reading any data",
        ["headrace validate job.yaml", "headrace validate job.yaml --json"],
    )
    parser.add_argument("job", metavar="JOB.yaml")
    parser.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="value of a ${variable}"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_inspect(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "inspect",
        commands.inspect,
        "show what is in a data set: splits, features, books, dead letters, a few records",
        ["headrace inspect out/elpv/1.0.0", "headrace inspect out/elpv/1.0.0 --records 10 --json"],
    )
    parser.add_argument("directory", metavar="DIR", help="directory of one version")
    parser.add_argument(
        "--records", type=int, default=3, metavar="N", help="records to show of each split (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _add_statistics(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "statistics",
        commands.statistics,
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


def _add_verify(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "verify",
        commands.verify,
        "check every SHA-256, CRC, count and index of a data set against its bytes",
        ["headrace verify out/elpv/1.0.0", "headrace verify out/elpv/1.0.0 --json"],
    )
    parser.add_argument("directory", metavar="DIR", help="directory of one version")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_diff(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "diff",
        commands.diff,
        "show what changed between two versions: records, shards, features, job, books",
        ["headrace diff out/elpv/1.0.0 out/elpv/1.1.0", "headrace diff OLD NEW --records 5 --json"],
    )
    for which in ("before", "after"):
        parser.add_argument(which, metavar=which.upper(), help="directory of one version, or its URL")
    parser.add_argument(
        "--records", type=int, default=0, metavar="N", help="examples of each kind of change (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _add_profile(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "profile",
        commands.profile,
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


def _add_schema(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "schema",
        commands.schema,
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
        commands.schema_infer,
        "write a commented schema that the statistics of a version fit, with room for the next one",
        ["headrace schema infer out/elpv/1.0.0", "headrace schema infer statistics.json --output -"],
    )
    infer.add_argument("version", metavar="DIR", help="a version's directory or URL, or a statistics.json")
    _add_output(infer, "schema.yaml")
    check = _add(
        kinds,
        "check",
        commands.schema_check,
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
        commands.schema_update,
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
        commands.schema_export,
        "write a schema as tensorflow_metadata's, for TFX's tools; what that cannot hold is kept in comments",
        ["headrace schema export schema.yaml --output schema.pbtxt"],
    )
    export.add_argument("schema_file", metavar="FILE", help="a schema")
    _add_output(export, "schema.pbtxt")
    back = _add(
        kinds,
        "import",
        commands.schema_import,
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
