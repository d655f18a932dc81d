"""Sources of the job spec: where records come from. A kind is one model here and one file of `beam_jobs.sources`."""

from __future__ import annotations

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


class AvroSource(_ColumnarSource):
    """Rows of Avro files. A partition is a few blocks."""

    kind: Literal["avro"]


Source = Annotated[
    ImageFolderSource | CsvSource | ParquetSource | ArrowSource | OrcSource | AvroSource,
    Field(discriminator="kind"),
]
