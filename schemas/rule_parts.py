"""What the cleaning rules of the job spec are made of: names of columns, expressions, names in the books."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def not_ours(name: str) -> str:
    """`name`, unless it begins as the names of our own columns do."""
    if name.startswith("headrace:"):
        raise ValueError("names that begin with headrace: are our own")
    return name


def once(names: list[str]) -> list[str]:
    """`names`, unless one of them is there twice."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns are listed more than once: {repeated}")
    return names


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ColumnName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(not_ours)]
Expression = Annotated[
    str, Field(min_length=1, max_length=10_000, description="A DuckDB SQL expression over columns.")
]
# One column or several; kept as a list.
Columns = Annotated[
    list[ColumnName],
    Field(min_length=1, description="A column, or a list of columns."),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    AfterValidator(once),
]
BookName = Annotated[str, Field(min_length=1, max_length=100)]
Action = Literal["dead_letter", "drop"]
