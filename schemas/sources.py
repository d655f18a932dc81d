"""Sources of the job spec: where records come from. A kind is one model here and one file of `beam_jobs.sources`."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from schemas.features import DottedName, Model, Size
from schemas.units import ByteSize

ColumnType = Literal["string", "int64", "float64", "bool"]
JsonType = Literal[ColumnType, "list<string>", "list<int64>", "list<float64>", "list<bool>"]
ValueType = Literal[
    "string", "bytes", "int64", "float64", "bool", "list<string>", "list<int64>", "list<float64>"
]


# What names a column in `pattern`: (?P<name> in a regular expression, {name} in a template.
GROUP_IN_REGEX = re.compile(r"\(\?P<(\w+)>")
_GROUP_IN_TEMPLATE = re.compile(r"\{(\w+)\}")


class _Folder(Model):
    """What sources of whole files below a folder have in common."""

    path: str = Field(description="The folder, local or any fsspec URL; ${variables} are filled in.")
    include: list[str] = Field(
        ["**/*"], description="Patterns of the files to read, relative to `path`; ** crosses folders."
    )
    exclude: list[str] = Field(
        ["**/.*", "**/.*/**", "**/Thumbs.db"], description="Patterns of files to leave alone."
    )
    pattern: str | None = Field(
        None,
        max_length=1000,
        description="Columns from paths: {label}/{id}.jpg, each name within one folder or file name, with * and ** "
        "for the rest; or a regular expression (RE2) with groups (?P<label>…). Matches the whole relative path.",
    )
    unmatched: Literal["dead_letter", "exclude"] = Field(
        "dead_letter", description="What becomes of a file whose path does not match `pattern`."
    )
    partition_files: int = Field(512, ge=1, le=100_000, description="About how many files a partition holds.")
    partition_bytes: ByteSize = Field(64 << 20, ge=1, description="How much it holds at most, or one file.")
    max_file_bytes: ByteSize = Field(256 << 20, gt=0, description="Larger files become dead letters, unread.")

    @property
    def key(self) -> str:
        """The column that names a record."""
        return "path"

    @property
    def is_text(self) -> bool:
        """Whether the bytes are decoded."""
        return False

    @property
    def allows_empty(self) -> bool:
        """Whether a file of no bytes is a record."""
        return False

    @property
    def content(self) -> str:
        """The column of a file's bytes or text."""
        return "image"

    @property
    def columns(self) -> list[str]:
        """The columns before those of `pattern`."""
        return ["path", self.content, "folder", "name", "stem"]

    @property
    def groups(self) -> list[str]:
        """The columns that `pattern` adds."""
        if self.pattern is None:
            return []
        return GROUP_IN_REGEX.findall(self.pattern) or _GROUP_IN_TEMPLATE.findall(self.pattern)

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        if self.pattern is not None and not self.groups:
            raise ValueError(
                "`pattern` names no column: write {label}, or (?P<label>…) in a regular expression"
            )
        columns = [*self.columns, *self.groups]
        for name in self.groups:
            if columns.count(name) > 1:
                raise ValueError(f"`pattern` names {name!r}, which is a column already")
            if not name.isidentifier():
                raise ValueError(f"`pattern` names {name!r}; a name begins with a letter")
        return self


class ImageFolderSource(_Folder):
    """Every image below a folder. Columns: path (the key), image, folder, name, stem, and those of `pattern`."""

    kind: Literal["image_folder"]


class FilesSource(_Folder):
    """Every file below a folder. Columns: path (the key), data or text, size, folder, name, stem, suffix, …"""

    kind: Literal["files"]
    text: bool = Field(False, description="Decode the bytes as UTF-8, in a column `text` in place of `data`.")

    @property
    def is_text(self) -> bool:
        """Whether the bytes are decoded."""
        return self.text

    @property
    def allows_empty(self) -> bool:
        """Whether a file of no bytes is a record."""
        return True

    @property
    def content(self) -> str:
        """The column of a file's bytes or text."""
        return "text" if self.text else "data"

    @property
    def columns(self) -> list[str]:
        """The columns before those of `pattern`."""
        return ["path", self.content, "size", "folder", "name", "stem", "suffix"]


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


FieldType = Literal["bytes", "text", "int64", "json"]


class WebDatasetSource(Model):
    """Samples of tar shards. Columns: __key__ (the key), __url__ (the shard), and one for each extension."""

    kind: Literal["webdataset"]
    path: str = Field(
        description="A tar file, plain or .gz, or a pattern such as train-*.tar; ${variables} are filled in."
    )
    fields: dict[str, FieldType] | None = Field(
        None,
        min_length=1,
        description="Types of the extensions to read, such as {jpg: bytes, cls: int64}; those of the first samples, "
        "typed as WebDataset does, where absent. `json` is text that is checked.",
    )
    partition_bytes: ByteSize = Field(
        64 << 20,
        ge=1,
        description="About how much a partition holds of a tar that is local and not compressed; others are one each.",
    )
    max_sample_bytes: ByteSize = Field(
        256 << 20, gt=0, description="Larger samples become dead letters, unread."
    )

    @property
    def key(self) -> str:
        """The column that names a record."""
        return "__key__"


class _ColumnarSource(Model):
    path: str = Field(
        description="A file, a pattern such as part-*, or a folder, of which every file of the kind is read; "
        "${variables} are filled in."
    )
    columns: list[str] | None = Field(
        None,
        min_length=1,
        description="The columns to read, all where absent. `a.b` is field b of the nested column a, `a` all of it.",
    )
    key: str | list[str] | None = Field(
        None, description="Column or columns that name a record; file and row where absent."
    )
    hive: bool | None = Field(
        None,
        description="Whether folders called name=value below `path` are columns of text; those that are, where absent.",
    )
    times: Literal["s", "ms", "us", "ns", "text"] = Field(
        "us",
        description="What times become: whole numbers of this unit (since 1970 in UTC; dates: days), or ISO 8601 text.",
    )
    partition_bytes: ByteSize = Field(
        4 << 20, ge=1, le=1 << 30, description="About how much of its columns one partition holds in memory."
    )


class ParquetSource(_ColumnarSource):
    """Rows of Parquet files. A partition is a few row groups of a file, or a part of a large one."""

    kind: Literal["parquet"]


class ArrowSource(_ColumnarSource):
    """Rows of Arrow files: IPC files, IPC streams and Feather (version 2). A partition is a few record batches."""

    kind: Literal["arrow"]


class OrcSource(_ColumnarSource):
    """Rows of ORC files. A partition is a few stripes."""

    kind: Literal["orc"]


class JsonlSource(Model):
    """JSON objects, one a line, in one file or several. What has no type given is inferred from all lines."""

    kind: Literal["jsonl"]
    path: str = Field(description="A file, or a pattern such as rows-*.jsonl; ${variables} are filled in.")
    key: str | list[str] | None = Field(
        None,
        description="Column or columns that name a record: texts or whole numbers; file and row where absent.",
    )
    types: dict[str, JsonType] = Field(
        default_factory=dict,
        description="Types of columns, inferred where absent. A string column takes any value, as its JSON text.",
    )
    columns: list[str] | None = Field(
        None, min_length=1, description="The columns to read, in order; all that occur where absent."
    )
    flatten: bool | Annotated[str, Field(min_length=1, max_length=8)] = Field(
        False,
        description="Make columns of the fields of nested objects: `user.name`, or with another separator than a dot.",
    )
    partition_bytes: ByteSize = Field(
        4 << 20,
        ge=1,
        le=1 << 30,
        description="About how much one partition holds; raise it where there are more than thousands.",
    )
    max_row_bytes: ByteSize = Field(16 << 20, gt=0, le=1 << 30, description="A longer line ends the job.")

    @property
    def separator(self) -> str | None:
        """What joins the names of nested fields; None where they stay nested."""
        return "." if self.flatten is True else self.flatten or None


class PythonSource(Model):
    """Records that a function of yours yields, one partition after the other."""

    kind: Literal["python"]
    partitions: DottedName | list[JsonValue] = Field(
        description="A list of JSON values, or the function that gives it: one partition each."
    )
    read: DottedName = Field(
        description="Your function from one such value to its records: dicts, or pyarrow RecordBatches."
    )
    path: str = Field(
        "",
        description="Passed to both functions as the argument `path` where it is given; ${variables} are filled in.",
    )
    key: str | list[str] | None = Field(
        None, description="Column or columns that name a record; partition and row where absent."
    )
    columns: dict[str, ValueType] | None = Field(
        None, description="All columns and their types; those of the first records where absent."
    )
    version: str = Field("", description="Raise it when records change for a reason that is not in the code.")


class HuggingFaceSource(Model):
    """A data set of Hugging Face in a folder: as `save_to_disk` writes it, or exported as Parquet."""

    kind: Literal["huggingface"]
    path: str = Field(description="The folder, local or any fsspec URL; ${variables} are filled in.")
    split: str | list[str] | None = Field(None, description="Split or splits to read; all where absent.")
    key: str | list[str] | None = Field(
        None, description="Column or columns that name a record; split and row where absent."
    )
    partition_bytes: ByteSize = Field(
        8 << 20,
        ge=1,
        description="About how much one partition holds, in whole record batches or row groups; raise it where there "
        "are more than thousands.",
    )


class AvroSource(_ColumnarSource):
    """Rows of Avro files. A partition is a few blocks."""

    kind: Literal["avro"]


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
        131_072,
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


class TfdsSource(Model):
    """A data set that TensorFlow Datasets has prepared, or that Headrace has written."""

    kind: Literal["tfds"]
    path: str = Field(
        "~/tensorflow_datasets",
        description="Its folder, or with `name` that of all data sets; local or any fsspec URL; ${variables} are "
        "filled in.",
    )
    name: str | None = Field(
        None,
        pattern=r"^\w[\w.+-]*(/\w[\w.+-]*)?(:\d+\.\d+\.\d+)?$",
        description="As TFDS writes it: mnist, mnist:3.0.1, glue/cola. The highest version where none is given.",
    )
    split: str | list[str] | None = Field(None, description="Split or splits to read; all where absent.")
    key: str | list[str] | None = Field(
        None, description="Column or columns that name a record; split and row where absent."
    )
    partition_bytes: ByteSize = Field(32 << 20, ge=1, description="About how much one partition holds.")


class ExampleFeature(Model):
    """What one feature of the records holds."""

    type: Literal["bytes", "string", "int64", "float32"]
    shape: tuple[Size | None, ...] = Field(
        (), max_length=1, description="() for one value, (n) for so many, (null) for a list of any length."
    )


class TfrecordSource(Model):
    """TFRecords of tf.train.Example, plain or compressed (GZIP, ZLIB)."""

    kind: Literal["tfrecord"]
    path: str = Field(
        description="A file, or a pattern such as train.tfrecord-*; ${variables} are filled in."
    )
    key: str | None = Field(
        None,
        description="Feature that names a record: bytes or a whole number; file and number where absent.",
    )
    features: dict[str, ExampleFeature] | None = Field(
        None, min_length=1, description="The features to read; all, inferred from all records, where absent."
    )
    partition_bytes: ByteSize = Field(
        16 << 20, ge=1, le=1 << 30, description="About how much one partition holds."
    )
    max_record_bytes: ByteSize = Field(
        256 << 20, gt=0, le=1 << 30, description="Larger records become dead letters, unread."
    )


class _TransformSource(Model):
    """Rows that a pipeline gives in any order."""

    key: str | list[str] = Field(description="Column or columns that name a record.")
    columns: dict[str, ValueType] = Field(min_length=1, description="All columns and their types.")
    partitions: int = Field(
        64,
        ge=1,
        le=4096,
        description="Parts that the rows are dealt to by their keys, each sorted in memory.",
    )


class BeamSource(_TransformSource):
    """Rows of a PTransform of yours, which may come in any order."""

    kind: Literal["beam"]
    transform: DottedName = Field(
        description="Your PTransform, or a function that gives it; from the pipeline's begin to dicts."
    )
    path: str = Field(
        "", description="Passed to it as the argument `path` where it is given; ${variables} are filled in."
    )
    version: str = Field(
        "",
        description="Raise it when rows change for a reason that is not in the code; they are not read again else.",
    )


class BigQuerySource(_TransformSource):
    """Rows of BigQuery, read by Beam's connector."""

    kind: Literal["bigquery"]
    table: str | None = Field(
        None, pattern=r"^[\w-]+[.:][\w-]+\.[\w$-]+$", description="A table, as in project.dataset.table."
    )
    query: str | None = Field(None, min_length=1, description="Or a query in GoogleSQL.")
    project: str | None = Field(None, description="Who pays; that of the job's Google options where absent.")
    method: Literal["direct", "export"] = Field(
        "direct", description="By the Storage API, or by an export to --temp_location."
    )
    version: str = Field(
        min_length=1, description="Which state of the data it is, such as a date; another one is read anew."
    )

    @property
    def path(self) -> str:
        """There is none: BigQuery is one place."""
        return ""

    @model_validator(mode="after")
    def _one(self) -> BigQuerySource:
        if (self.table is None) == (self.query is None):
            raise ValueError("a bigquery source needs `table` or `query`, and not both")
        return self


Source = Annotated[
    ImageFolderSource
    | FilesSource
    | CsvSource
    | WebDatasetSource
    | ParquetSource
    | ArrowSource
    | OrcSource
    | JsonlSource
    | PythonSource
    | HuggingFaceSource
    | AvroSource
    | SqlSource
    | TfdsSource
    | TfrecordSource
    | BeamSource
    | BigQuerySource,
    Field(discriminator="kind"),
]
