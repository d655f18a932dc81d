"""BigQuery without Google: what is known before it is asked. `tests/engines/test_dataflow.py` builds its graphs."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest
from pydantic import ValidationError

from beam_jobs.sources import open_source
from beam_jobs.sources.bigquery import BigQuery, plain
from schemas.errors import HeadraceError
from schemas.sources import BigQuerySource

FIELDS = {"key": "id", "columns": {"id": "string", "day": "string"}, "version": "1", "partitions": 4}


def source(**options: Any) -> BigQuery:
    spec = BigQuerySource(kind="bigquery", **{"table": "my-project.set.table", **FIELDS, **options})
    found = open_source("rows", spec, "")
    assert isinstance(found, BigQuery)
    return found


def test_identities_know_what_is_read_and_in_which_state() -> None:
    plain_ones = [partition.identity for partition in source().partitions()]
    assert len(plain_ones) == 4
    others = (
        {"table": "my-project.set.other"},
        {"table": None, "query": "SELECT 1"},
        {"version": "2"},
        {"columns": {"id": "string"}},
        {"partitions": 5},
    )
    for other in others:
        found = [partition.identity for partition in source(**other).partitions()]
        assert not [identity for identity in found if identity in plain_ones]
    # How it is read, and who pays, changes no row.
    for same in ({"method": "export"}, {"project": "another"}):
        assert [partition.identity for partition in source(**same).partitions()] == plain_ones


def test_rows_are_made_of_what_columns_hold() -> None:
    row = {
        "id": "a",
        "day": datetime.date(2026, 1, 2),
        "price": decimal.Decimal("1.50"),
        "tags": [1, None, b"x"],
        "deep": {"at": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)},
    }
    assert plain(row) == {
        "id": "a",
        "day": "2026-01-02",
        "price": "1.50",
        "tags": [1, None, b"x"],
        "deep": {"at": "2026-01-02 03:04:00+00:00"},
    }


def test_a_missing_client_is_an_error() -> None:
    with pytest.raises(HeadraceError, match=r"not installed.\n.*sources.rows\n.*headrace\[bigquery\]"):
        source().transform()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "SELECT 1"}, "`table` or `query`, and not both"),
        ({"table": None}, "`table` or `query`, and not both"),
        ({"table": "table; DROP"}, "pattern"),
        ({"version": ""}, "version"),
        ({"columns": {}}, "columns"),
    ],
)
def test_specs_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source(**options)


def test_a_key_that_does_not_exist() -> None:
    with pytest.raises(HeadraceError, match="`key` names a column that does not exist"):
        source(key="name").partitions()
