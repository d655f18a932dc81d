"""`headrace schema infer`, `check`, `export` and `import`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.differences import drift_from, skew_between
from beam_jobs.data_schema.infer import infer_schema
from beam_jobs.data_schema.tfmd import from_pbtxt_file, to_pbtxt
from beam_jobs.data_schema.versions import read_version
from schemas.anomalies import Anomaly, anomalies_json
from schemas.data_schema import load_data_schema
from schemas.errors import HeadraceError
from schemas.statistics import Statistics


def infer_command(where: str, output: str, *, force: bool) -> int:
    """Writes a schema that a version fits."""
    version = read_version(where)
    _write(infer_schema(version.statistics, version.called), output, force=force)
    return 0


def export_command(schema_file: str, output: str, *, force: bool) -> int:
    """Writes a schema as tensorflow_metadata's."""
    _write(to_pbtxt(load_data_schema(schema_file)), output, force=force)
    return 0


def import_command(schema_file: str, output: str, *, force: bool) -> int:
    """Writes a schema from tensorflow_metadata's."""
    _write(from_pbtxt_file(schema_file), output, force=force)
    return 0


def check_command(
    where: str, schema_file: str, against: str | None, between: Sequence[str], *, as_json: bool
) -> int:
    """Prints the anomalies of a version; 1 if there are any."""
    schema, version = load_data_schema(schema_file), read_version(where)
    before = None if against is None else read_version(against)
    if between:
        _check_splits(between, version.statistics)
    found = [
        *find_anomalies(schema, version.statistics),
        *([] if before is None else drift_from(schema, version.statistics, before.statistics, before.called)),
        *(skew_between(schema, version.statistics, between) if between else []),
    ]
    if as_json:
        told = {"schema_fingerprint": schema.fingerprint, "anomalies": anomalies_json(found)}
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(check_lines(version.called, found)))
    return int(any(each.kind != "not_checked" for each in found))


def check_lines(called: str, found: Sequence[Anomaly]) -> list[str]:
    """Anomalies as a person wants to read them."""
    if not found:
        return [f"{called} is as the schema says."]
    errors = sum(each.severity == "error" for each in found)
    lines = [f"{called}: {counted(errors, 'error')}, {counted(len(found) - errors, 'warning')}."]
    for each in found:
        lines += ["", f"{each.kind}  {each.where}", *(f"  {line}" for line in anomaly_lines(each))]
    return lines


def anomaly_lines(anomaly: Anomaly) -> list[str]:
    """What is wrong, and what to do next."""
    return [
        anomaly.what,
        f"found:   {anomaly.found}",
        f"allowed: {anomaly.allowed}",
        f"hint:    {anomaly.hint}",
    ]


def counted(number: int, noun: str) -> str:
    """`2 errors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _check_splits(between: Sequence[str], statistics: Statistics) -> None:
    for name in between:
        if name not in statistics.splits:
            raise HeadraceError(
                "There is no such split to compare.",
                where="--skew",
                value=name,
                allowed=", ".join(statistics.splits),
            )
    if len(set(between)) < max(2, len(between)):
        raise HeadraceError(
            "Skew is measured between different splits.",
            where="--skew",
            value=" ".join(between),
            allowed="two splits or more; the first is compared with each of the others",
        )


def _write(text: str, output: str, *, force: bool) -> None:
    """Writes a file, or to standard output where it is called `-`.

    Raises:
      HeadraceError: the file exists, or cannot be written.
    """
    if output == "-":
        sys.stdout.write(text)
        return
    try:
        with open(output, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
        print(f"Wrote {output}.")
    except FileExistsError as error:
        raise HeadraceError(
            "The file exists already; it was left as it is.",
            where=output,
            hint="Give another --output, or --force to replace it.",
        ) from error
    except OSError as error:
        raise HeadraceError(
            "The file cannot be written.", where=str(Path(output)), value=error.strerror
        ) from error
