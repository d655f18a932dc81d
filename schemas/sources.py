"""Sources of the job spec: where records come from. A kind is one model here and one file of `beam_jobs.sources`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.features import Model, Size
from schemas.units import ByteSize

ColumnType = Literal["string", "int64", "float64", "bool"]
JsonType = Literal[ColumnType, "list<string>", "list<int64>", "list<float64>", "list<bool>"]


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


Source = Annotated[ImageFolderSource | CsvSource | JsonlSource | TfrecordSource, Field(discriminator="kind")]
