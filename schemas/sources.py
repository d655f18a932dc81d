"""Sources of the job spec: where records come from. A kind is one model here and one file of `beam_jobs.sources`."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.features import Model
from schemas.units import ByteSize

ColumnType = Literal["string", "int64", "float64", "bool"]


class ImageFolderSource(Model):
    """Every image below a folder. Columns: path (the key), image, folder, name, stem."""

    kind: Literal["image_folder"]
    path: str = Field(description="The folder, local or any fsspec URL; ${variables} are filled in.")
    include: list[str] = Field(
        ["**/*"], description="Patterns of the files to read, relative to `path`; ** crosses folders."
    )
    exclude: list[str] = Field(
        ["**/.*", "**/.*/**", "**/Thumbs.db"], description="Patterns of files to leave alone."
    )
    partition_files: int = Field(512, ge=1, le=100_000, description="About how many files a partition holds.")
    max_file_bytes: ByteSize = Field(256 << 20, gt=0, description="Larger files become dead letters, unread.")

    @property
    def key(self) -> str:
        """The column that names a record."""
        return "path"


class CsvSource(Model):
    """Rows of delimited text, one file or several."""

    kind: Literal["csv"]
    path: str = Field(description="A file, or a pattern such as rows-*.csv; ${variables} are filled in.")
    key: str | list[str] | None = Field(
        None, description="Column or columns that name a record; file and row where absent."
    )
    delimiter: str = Field(",", description="One character, or `whitespace` for any run of blanks.")
    quote: str = Field('"', max_length=1, description="The quoting character; empty for none.")
    header: bool = Field(True, description="Whether the first line names the columns.")
    columns: list[str] | None = Field(
        None, description="Names of the columns, in order, where there is no header."
    )
    types: dict[str, ColumnType] = Field(
        default_factory=dict,
        description="Types of columns; string where absent, features convert on their own.",
    )
    nulls: list[str] = Field(["", "NA", "NaN", "null", "NULL"], description="Texts that mean no value.")
    encoding: str = Field("utf-8", description="Of the text; latin-1 and the like are converted.")
    partition_bytes: ByteSize = Field(
        4 << 20,
        ge=1,
        le=1 << 30,
        description="About how much one partition holds; raise it where there are more than thousands.",
    )
    max_row_bytes: ByteSize = Field(
        16 << 20, gt=0, description="A longer row ends the job: a quote was left open."
    )

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, value: str) -> str:
        if value != "whitespace" and (len(value) != 1 or value in '\r\n"'):
            raise ValueError("expected one character that is no quote and no line end, or `whitespace`")
        return value

    @model_validator(mode="after")
    def _names(self) -> CsvSource:
        if not self.header and not self.columns:
            raise ValueError("`header: false` needs `columns: [...]` to name the columns")
        return self


class SqlSource(Model):
    """Rows of a table, a view or a query of PostgreSQL, MySQL, MariaDB, SQLite or DuckDB."""

    kind: Literal["sql"]
    url: str | None = Field(
        None,
        description="postgresql://user@host/database, mysql://…, sqlite:///file or duckdb:///file, never with a "
        "password; ${variables} are filled in.",
    )
    url_env: str | None = Field(None, description="The environment variable that holds the whole URL.")
    password_env: str | None = Field(None, description="The environment variable that holds the password.")
    table: str | None = Field(None, min_length=1, description="A table or view, by its name alone.")
    schema_name: str | None = Field(
        None,
        alias="schema",
        min_length=1,
        description="The schema of `table`, where it is not the usual one.",
    )
    query: str | None = Field(
        None, min_length=1, description="A SELECT in place of `table`; values only as :name of `params`."
    )
    params: dict[str, bool | int | float | date | str] = Field(
        default_factory=dict,
        description="Values of the :names in `query` or `where`, sent as bound parameters.",
    )
    where: str | None = Field(None, min_length=1, description="Which rows of `table`, as a condition in SQL.")
    key: str | list[str] | None = Field(
        None,
        min_length=1,
        description="Column or columns that name a record, unique together; the primary key where absent.",
    )
    partition_by: str | None = Field(
        None,
        description="A column, best one that has an index and grows, whose ranges are the partitions; the key's where "
        "absent.",
    )
    partition_rows: int = Field(
        65_536,
        ge=1,
        le=10_000_000,
        description="About how many rows a partition holds, and at most four times that.",
    )
    columns: list[str] | None = Field(
        None, min_length=1, description="The columns to read; all where absent."
    )

    @property
    def path(self) -> str:
        """Where the source is, which may hold variables."""
        return self.url or ""

    @model_validator(mode="after")
    def _sound(self) -> SqlSource:
        # No message shows a value: people put passwords where they do not belong.
        for field, name in (("url_env", self.url_env), ("password_env", self.password_env)):
            if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"`{field}` takes the name of an environment variable, not what it holds")
        if (self.url is None) == (self.url_env is None):
            raise ValueError("one of `url` and `url_env` says where the database is")
        if self.url is not None and holds_password(self.url):
            raise ValueError(
                "`url` must not hold a password: name the environment variable that does, `password_env: NAME`"
            )
        if (self.table is None) == (self.query is None):
            raise ValueError("one of `table` and `query` says what to read")
        if self.query is not None and self.key is None:
            raise ValueError("`query` needs `key: column`, or a list of columns that are unique together")
        for field in ("where", "schema_name"):
            if self.query is not None and getattr(self, field) is not None:
                raise ValueError(f"`{field.removesuffix('_name')}` goes with `table`; put it into the query")
        return self


def holds_password(url: str) -> bool:
    """Whether a database's URL has a password in it, as `user:password@` or as an option.

    >>> holds_password("postgresql://me@host/db"), holds_password("postgresql://me:it@host/db")
    (False, True)
    """
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] in ("sqlite", "duckdb"):
        return False
    if re.search(r"[?&](ssl)?(password|passwd|passphrase|pwd)=", rest, re.IGNORECASE):
        return True
    return ":" in rest.rpartition("@")[0]


Source = Annotated[ImageFolderSource | CsvSource | SqlSource, Field(discriminator="kind")]
