"""Rows of a table or of a query of BigQuery, read by Beam's own connector."""

from __future__ import annotations

import importlib.util
from typing import Any

from beam_jobs.sources._code.transform import TransformRows
from schemas.errors import HeadraceError
from schemas.hashing import fingerprint
from schemas.sources import BigQuerySource

_PLAIN = (str, bytes, bool, int, float)


class BigQuery(TransformRows):
    """What BigQuery gives. Times, dates and decimals are texts, as Python writes them.

    Which state of the data it is, the job says by `version`: BigQuery is not asked before it is read.
    """

    spec: BigQuerySource

    def transform(self) -> Any:
        """Beam's connector.

        Raises:
          HeadraceError: Google's clients are not installed.
        """
        check_installed(self.where)
        import apache_beam as beam

        method = {"direct": "DIRECT_READ", "export": "EXPORT"}[self.spec.method]
        what = (
            {"table": self.spec.table}
            if self.spec.table
            else {"query": self.spec.query, "use_standard_sql": True}
        )
        read = beam.io.ReadFromBigQuery(method=method, project=self.spec.project, **what)
        return read | "Plain" >> beam.Map(plain)

    def fingerprint(self) -> str:
        """Content hash of what is read."""
        return fingerprint(self.spec.table, self.spec.query)


def check_installed(where: str) -> None:
    """See that Google's clients are there.

    Raises:
      HeadraceError: they are not.
    """
    try:
        found = importlib.util.find_spec("google.cloud.bigquery")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise HeadraceError(
            "Google's client of BigQuery is not installed.",
            where=where,
            hint="pip install 'headrace[bigquery]'",
        )


def plain(value: Any) -> Any:
    """A value, or a row of them, made of what columns hold."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, _PLAIN) else str(value)
