"""Sources of the job spec: where records come from. A kind is one model here and one file of `beam_jobs.sources`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from schemas.features import Model
from schemas.units import ByteSize

ColumnType = Literal["string", "int64", "float64", "bool"]
ValueType = Literal[
    "string", "bytes", "int64", "float64", "bool", "list<string>", "list<int64>", "list<float64>"
]
DottedName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module.path:function")
]


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
        32 << 20,
        ge=1,
        description="About how much one partition holds, in whole record batches or row groups.",
    )


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
    | CsvSource
    | PythonSource
    | HuggingFaceSource
    | TfdsSource
    | BeamSource
    | BigQuerySource,
    Field(discriminator="kind"),
]
