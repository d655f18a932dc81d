"""Rules that need to know the train split before they can be applied: surveys, pipelines before the job's.

rules → passes ─ read, join, clean up to the first rule of the pass ─ one part for each partition ─ merge ─ plan

A survey sees the records of the train split only, as they come to the rule. What a partition answers is a small file
named by all that can change it, which stays after the commit: a job that was killed, and one of a source that has
grown, ask the other partitions only. Parts are merged here, not by Beam, exactly and in no order that matters.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from operator import attrgetter
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.batch import Batch, Ledger
from beam_jobs.build import prepare_tables, prepared
from beam_jobs.clean import columns_used
from beam_jobs.gather import Deal
from beam_jobs.listing import Listed, PartitionList, PartitionRef, read_partition, write_partitions
from beam_jobs.making import Making
from beam_jobs.materialize import leave_rows, transforms_of
from beam_jobs.plan import JobPlan
from beam_jobs.planning import function_fingerprints
from beam_jobs.progress import Watched, shown
from beam_jobs.runners import run_pipeline
from beam_jobs.splits import SPLIT
from beam_jobs.store_path import StorePath
from beam_jobs.survey import exact
from beam_jobs.survey.answers import Answers, Part, Question, questions
from beam_jobs.survey.apply import needs_survey
from beam_jobs.survey.exact import Moments
from beam_jobs.union import with_prefix
from beam_jobs.wire import for_runners
from schemas import HeadraceError
from schemas.hashing import fingerprint
from schemas.rules import Rule
from schemas.survey_rules import ImputeRule, OutliersRule, WeightsRule

MAX_GROUPS = 10_000
MAX_CLASSES = 100_000  # of a column, over all groups
SURVEY_SUFFIX = ".survey"
_KEPT_BYTES = 64 << 20  # of parts that are not read again for every digit
_MOST = sys.float_info.max


def survey(
    plan: JobPlan, partitions: PartitionList, options: PipelineOptions, *, show_progress: bool
) -> JobPlan:
    """The plan with what its rules need to know of the train split; the same where they need nothing.

    Raises:
      HeadraceError: a column has no value in the train split, or none that a rule could use.
    """
    for number, rules in enumerate(passes(plan.spec.clean)):
        asked = [question for place in rules for question in questions(plan.spec.clean[place])]
        basis = _basis(plan, rules)
        names = [f"{fingerprint(basis, each.source, each.identity)}{SURVEY_SUFFIX}" for each in partitions]
        listed = (Listed(each, name) for each, name in zip(partitions, names, strict=True))
        refs = write_partitions(plan.workspace.surveyed(number), listed)
        there = set(plan.workspace.survey.names())
        missing = [ref for ref, name in zip(refs, names, strict=True) if name not in there]
        if missing:
            for source in transforms_of(plan):
                leave_rows(plan, options, source)
            build = partial(build_survey, plan=plan, number=number, refs=missing)
            watched = Watched("surveyed", plan.workspace.survey, set(names))
            with shown(watched) if show_progress else nullcontext():
                run_pipeline(build, options, plan.workspace.root.store.lock_file)
        parts = Parts([plan.workspace.survey / name for name in names])
        slot = 0
        for place in rules:
            rule = plan.spec.clean[place]
            count = len(questions(rule))
            found = answer(rule, parts, asked[slot : slot + count], slot)
            plan, slot = plan.with_found(place, found), slot + count
    return plan


def passes(rules: Sequence[Rule]) -> list[list[int]]:
    """The numbers of the rules that need a survey, by the survey that can answer them.

    One rule's answer is that of the records as the rules before have left them. So it comes from the same survey as
    another's only if nothing between them changes records, or the columns it asks for.
    """
    found: list[list[int]] = []
    changed: set[str] | None = None  # by the rules of the last survey; None where they leave records out
    for number, rule in enumerate(rules):
        if not needs_survey(rule):
            continue
        follows = bool(found) and found[-1][-1] == number - 1
        if follows and changed is not None and not changed & set(columns_used(rule)):
            found[-1].append(number)
        else:
            found.append([number])
            changed = set()
        match rule:
            case ImputeRule() if changed is not None:
                changed |= set(rule.impute)
            case WeightsRule() if changed is not None:
                changed |= {rule.weights}
            case OutliersRule() if changed is not None:
                changed = changed | {rule.outliers} if rule.action == "clip" else None
    return found


def build_survey(pipeline: beam.Pipeline, plan: JobPlan, number: int, refs: list[PartitionRef]) -> None:
    """Adds the survey of that number to `pipeline`."""
    tables = prepare_tables(pipeline, plan)
    partitions = pipeline | "Partitions" >> Deal(refs, attrgetter("bytes"))
    _ = partitions | "Survey" >> beam.Map(survey_partition, plan, number, *tables)


@for_runners
def survey_partition(ref: PartitionRef, plan: JobPlan, number: int, _tables_ready: object = None) -> int:
    """Leaves the answers of a partition in the work directory, unless they are there already."""
    listed = read_partition(plan.workspace.surveyed(number), ref)
    path = plan.workspace.survey / listed.run
    if path.exists():
        return 0
    rules = passes(plan.spec.clean)[number]
    partition = listed.partition
    source, member = plan.source(partition.source), plan.member(partition.source)
    making = Making(plan, Ledger(partition.source, lambda row: source.origin(partition, row)), None)
    answers = Answers([question for place in rules for question in questions(plan.spec.clean[place])])
    for found in source.read(partition):
        keys = with_prefix(found.keys, member.prefix)
        batch = prepared(Batch(found.records, keys, found.rows), making, member, rules[0])
        if len(batch):
            batch = batch.keep(batch.records.column(SPLIT).to_numpy() == plan.train_split)
        if len(batch):
            answers.add(batch)
    path.write(answers.encode(), durable=True)  # it outlives the job
    return answers.records


class Parts:
    """The answers of all partitions, one after the other, as often as they are asked for."""

    def __init__(self, paths: list[StorePath]) -> None:
        self._paths = paths
        self._kept: dict[str, Part] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Part]:
        return map(self._read, self._paths)

    def _read(self, path: StorePath) -> Part:
        if (kept := self._kept.get(path.path)) is not None:
            return kept
        try:
            data = path.read()
            part = Part.decode(data)
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise HeadraceError(
                "What a survey left in the work directory is damaged or gone.",
                where=str(path),
                hint="Remove the file, if it is there, and run the same command again.",
            ) from error
        if self._bytes + len(data) <= _KEPT_BYTES:
            self._kept[path.path] = part
            self._bytes += len(data)
        return part


def answer(rule: Rule, parts: Parts, asked: list[Question], slot: int) -> dict[str, Any]:
    """What was found for a rule; its questions are those from `slot` on. See `beam_jobs.survey.apply`.

    Raises:
      HeadraceError: there is no value to go by, or there are too many classes or groups.
    """
    match rule:
        case ImputeRule():
            return {
                question.column: _imputed(rule, parts, question, slot + n) for n, question in enumerate(asked)
            }
        case OutliersRule():
            low, high = _bounds(rule, parts, asked[0], slot)
            return {"low": max(low, -_MOST), "high": min(high, _MOST)}
        case WeightsRule():
            counts = _classes(parts, asked[0], slot)[None]
            return class_weights(rule, counts)
    raise AssertionError(rule)


def class_weights(rule: WeightsRule, counts: dict[str, int]) -> dict[str, float]:
    """The weight of each class by its number of records, each rounded once.

    `effective_number` is that of Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019:
    (1 - β) / (1 - β^n), scaled so that the weights of all classes add up to their number.
    """
    classes = sorted(counts)
    if rule.method == "inverse_frequency":
        total = sum(counts.values())
        return {name: float(Fraction(total, len(classes) * counts[name])) for name in classes}
    with localcontext() as context:
        context.prec = 60
        beta = Decimal(repr(rule.beta))
        raw = {name: (1 - beta) / (1 - beta ** counts[name]) for name in classes}
        scale = len(classes) / sum(raw.values(), Decimal(0))
        return {name: float(value * scale) for name, value in raw.items()}


def _imputed(rule: ImputeRule, parts: Parts, question: Question, slot: int) -> dict[str, Any]:
    kinds = {part.types[slot] for part in parts if slot in part.types}
    kind = kinds.pop() if len(kinds) == 1 else "float" if kinds == {"integer", "float"} else "text"
    found: dict[str | None, Any]
    match rule.how:
        case "mean":
            by_group = _moments(parts, question, slot)
            overall: Any = sum(by_group.values(), Moments()).mean
            found = {group: each.mean for group, each in by_group.items()}
        case "median":
            overall = _quantiles(parts, question, slot, [0.5], together=True)[None][0]
            found = {group: each[0] for group, each in _quantiles(parts, question, slot, [0.5]).items()}
        case _:
            counted = _classes(parts, question, slot)
            everything: Counter[str] = Counter()
            for each in counted.values():
                everything.update(each)
            overall = _commonest(everything, kind)
            found = {group: _commonest(each, kind) for group, each in counted.items()}
    if kind == "integer" and rule.how != "most_frequent":
        overall, found = round(overall), {group: round(value) for group, value in found.items()}
    groups = {group: value for group, value in found.items() if group is not None}
    return {"all": overall, "groups": dict(sorted(groups.items()))}


def _bounds(rule: OutliersRule, parts: Parts, question: Question, slot: int) -> tuple[float, float]:
    if rule.z_score is not None:
        found = _moments(parts, question, slot)[None]
        return found.mean - rule.z_score * found.deviation, found.mean + rule.z_score * found.deviation
    shares = (0.25, 0.75) if rule.quantiles is None else rule.quantiles
    low, high = _quantiles(parts, question, slot, shares)[None]
    if rule.iqr is None:
        return low, high
    return low - rule.iqr * (high - low), high + rule.iqr * (high - low)


def _moments(parts: Parts, question: Question, slot: int) -> dict[str | None, Moments]:
    found: defaultdict[str | None, Moments] = defaultdict(Moments)
    for part in parts:
        for group, each in part.moments.get(slot, {}).items():
            found[group] += each
        _check_number(len(found), MAX_GROUPS, question)
    return _not_nothing(dict(found), question)


def _classes(parts: Parts, question: Question, slot: int) -> dict[str | None, dict[str, int]]:
    """How many records each class has, by group."""
    found: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    for part in parts:
        counted = part.counted[slot]
        columns = (counted["group"].to_pylist(), counted["text"].to_pylist(), counted["count"].to_pylist())
        for group, text, count in zip(*columns, strict=True):
            found[group][text] += count
        _check_number(sum(map(len, found.values())), MAX_CLASSES, question)
    return _not_nothing({group: dict(counts) for group, counts in found.items()}, question)


def _quantiles(
    parts: Parts, question: Question, slot: int, shares: Sequence[float], *, together: bool = False
) -> dict[str | None, list[float]]:
    """Quantiles by group; of all groups together, under None, if so asked."""
    counts: Counter[str | None] = Counter()
    for part in parts:
        names, owners = _groups(part, slot, together=together)
        each = np.bincount(owners, weights=part.counted[slot]["count"].to_numpy(), minlength=len(names))
        counts.update({name: int(n) for name, n in zip(names, each, strict=True) if n})
        _check_number(len(counts), MAX_GROUPS, question)
    groups = sorted(_not_nothing(dict(counts), question), key=lambda group: (group is not None, group or ""))
    places = {group: place for place, group in enumerate(groups)}

    def read() -> Iterator[exact.Part]:
        for part in parts:
            counted = part.counted[slot]
            names, owners = _groups(part, slot, together=together)
            yield exact.Part(
                np.array([places.get(name, 0) for name in names], np.int64)[owners],
                exact.keys_of(counted["number"].to_numpy(zero_copy_only=False)),
                counted["count"].to_numpy(),
            )

    found = exact.quantiles(read, np.array([counts[group] for group in groups]), shares)
    return {group: found[place].tolist() for group, place in places.items()}


def _groups(part: Part, slot: int, *, together: bool) -> tuple[list[str | None], npt.NDArray[np.int64]]:
    """The groups of a part, and which of them each row of its answer is of, int64 (n,)."""
    column = part.counted[slot]["group"]
    if together:
        return [None], np.zeros(len(column), np.int64)
    encoded = column.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), None]
    places = pc.fill_null(encoded.indices, len(names) - 1)
    return names, places.to_numpy(zero_copy_only=False).astype(np.int64)


def _commonest(counts: dict[str, int], kind: str) -> Any:
    """The value that most records have; of several the smallest."""
    most = max(counts.values())
    values = [_typed(text, kind) for text, count in counts.items() if count == most]
    return min(values)


def _typed(text: str, kind: str) -> Any:
    if kind == "bool":
        return text == "true"
    if kind == "float":
        return float(text) + 0.0  # of the two zeros the one without a sign
    return int(text) if kind == "integer" else text


def _not_nothing(found: dict[Any, Any], question: Question) -> dict[Any, Any]:
    if not found:
        raise HeadraceError(
            "The train split has no value to go by.",
            where=question.where,
            value=question.column,
            hint="Give a constant `value:`, or leave the rule out.",
        )
    return found


def _check_number(count: int, most: int, question: Question) -> None:
    if count > most:
        raise HeadraceError(
            "There are too many different groups or classes.",
            where=question.where,
            value=f"more than {most:,}",
            allowed=f"{most:,}",
        )


def _basis(plan: JobPlan, rules: list[int]) -> str:
    """The fingerprint of all that can change what is answered, but for the partition itself."""
    spec = plan.spec.model_dump(
        by_alias=True, mode="json", include={"sources", "main", "join", "split", "seed"}
    )
    until = plan.spec.clean[: rules[-1] + 1]
    return fingerprint(
        plan.code,
        function_fingerprints(plan.spec, plan.found),
        spec,
        [rule.model_dump(by_alias=True, mode="json") for rule in until],
        rules,
        plan.train_split,
        [files.name for files in plan.tables.values()],
        plan.lists and plan.lists.digest,
    )
