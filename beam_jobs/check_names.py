"""Whether the columns that a job names can be there, before anything is read."""

from __future__ import annotations

from beam_jobs.clean import columns_after
from beam_jobs.join import columns_after_join
from beam_jobs.plan import JobPlan
from beam_jobs.survey.apply import needs_survey, title
from beam_jobs.union import check_shapes
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.features import ImageFeature
from schemas.rules import Rule
from schemas.split import Split
from schemas.survey_rules import WeightsRule


def check_names(plan: JobPlan) -> None:
    """Refuses what the job names and cannot be there, before anything is read; a user's function may add any column.

    Raises:
      HeadraceError: there is no such column, or a rule has to know what nobody knows yet.
    """
    spec = plan.spec
    columns = check_shapes((name, plan.source(name).columns()) for name in spec.main_names)
    for join in spec.join:
        columns = columns_after_join(join, columns, plan.source(join.table).columns())
    known: list[str] | None = columns
    for rule in spec.clean:
        if needs_survey(rule):
            _check_learning(rule, plan, known)
        known = columns_after(rule, known)
    if known is None:
        return
    columns = known
    for name, feature in plan.features.items():
        for column in [feature.source or name] if not isinstance(feature.source, list) else feature.source:
            _known(column, columns, f"features.{name}.from")
    _check_split(spec.split, columns)
    for name, feature in plan.features.items():
        if isinstance(feature, ImageFeature) and any(
            spec.sources[main].kind == "csv" for main in spec.main_names
        ):
            raise HeadraceError("Rows of text hold no images.", where=f"features.{name}", value=feature.type)


def _check_split(split: Split, columns: list[str]) -> None:
    """The columns that splits depend on."""
    for where in ("by", "stratify", "time", "column"):
        if (named := getattr(split, where)) is not None:
            _known(named, columns, f"split.{where}")
    for named in split.leaks:
        _known(named, columns, "split.leaks")
    if split.cap is not None:
        _known(split.cap.by, columns, "split.cap.by")


def _check_learning(rule: Rule, plan: JobPlan, columns: list[str] | None) -> None:
    """A rule that learns from the train split must know, record by record, which records those are."""
    split = plan.spec.split
    assert plan.train_split >= 0
    if split.ranked or (split.cap is not None and isinstance(rule, WeightsRule)):
        raise HeadraceError(
            "A cleaning rule needs to know the train split, which only all records together tell.",
            where=f"clean, {title(rule)}",
            value="split.exact or split.stratify" if split.ranked else "split.cap",
            allowed="splits by hash, group, time, column or lists"
            if split.ranked
            else "`weights`, or a cap of each class",
            hint="Leave out one of the two, or prepare a data set first, and clean the next one made of it.",
        )
    if columns is not None:
        _check_split(split, columns)


def _known(column: str, columns: list[str], where: str) -> None:
    if column not in columns:
        raise HeadraceError(
            "There is no such column.", where=where, value=column, allowed=shorten(", ".join(columns), 400)
        )
