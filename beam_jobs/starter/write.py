"""The job file: every line that was guessed says why, and what is not known is a comment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.sources._places.listing import local_root, shown
from beam_jobs.starter.findings import Findings, Table, identifier, unique
from beam_jobs.starter.guess import Guess
from beam_jobs.starter.kinds import examples
from beam_jobs.starter.match import group_of, is_like_key, only_names
from beam_jobs.starter.media import SPLITS, splits_in
from beam_jobs.starter.page import Page, flow, scalar
from beam_jobs.starter.place import escaped, is_signed, join, stem_of, without_secrets
from schemas.errors import HeadraceError, shorten

_LABELS = ("label", "class", "target", "category", "labels", "class_name", "class_id", "cls", "y")
_NO_LABELS = {"split", "subset", "fold", "set", "partition"}
_MIN_TO_SPLIT = 50  # records
_SHOWN = 10  # reasons why files are not used
_FEW_CLASSES = 20
_USUAL_SHARE = 0.01  # of records that may be dead letters, unless a job says otherwise
_INTERNAL = {"__key__", "__url__"}  # of tar shards


def write(found: Findings, data: Sequence[str]) -> str:
    """The text of the job."""
    page = Page()
    _head(page, found, data)
    variables = _Variables(found)
    paths = {table.name: variables.path(table) for table in found.tables}
    page.add("vars:")
    for name, (value, why) in variables.values.items():
        page.add(f"  {name}: {scalar(value, path='${' not in value)}", why)
    page.gap()
    _sources(page, found, paths)
    _joins(page, found)
    plan = _Features(found)
    _clean(page, plan)
    _features(page, plan)
    _split(page, found, plan)
    _budget(page, found)
    return page.text()


def _head(page: Page, found: Findings, data: Sequence[str]) -> None:
    given = " ".join(without_secrets(one) for one in data)
    page.say(f"Written by: headrace init {shorten(given, 300)}")
    page.say(
        "It runs as it is. What was guessed says why: delete what you do not need, and correct the rest."
    )
    page.say(
        "Check changes with `headrace validate`, and see what would be done with `headrace run --dry-run`."
    )
    page.gap()
    page.add(f"name: {scalar(_dataset_name(found))}")
    page.add("version: 1.0.0", "give it another when the data or this file have changed")
    page.gap()


def _dataset_name(found: Findings) -> str:
    place = found.places[0]
    if len(place.files) == 1 and place.files[0]:
        base = stem_of(place.files[0]).partition(".")[0]
    else:
        local = local_root(place.root)
        base = (
            Path(local).absolute().name if local is not None else place.written.rstrip("/").rpartition("/")[2]
        )
    return identifier(base, "data")


class _Variables:
    """The variables of the job: where the data are, so that they can lie elsewhere on another machine."""

    def __init__(self, found: Findings) -> None:
        self.values: dict[str, tuple[str, str]] = {}
        self._found = found

    def path(self, table: Table) -> str:
        """The path of a source, with a variable for its root."""
        family = table.family
        root = next(
            (p for p in self._found.places if _is_below(family.place.written, p.written)), family.place
        )
        inner = family.place.written[len(root.written) :].lstrip("/")
        zipped = root.root.startswith("zip://")
        rest = "" if is_signed(root.root) and not zipped else join(inner, family.path)
        if "${" in rest or (rest and zipped):
            return f"${{{self._of(join(root.written, rest), secret=False)}}}"
        secret = root.written != root.root and "://" in root.root
        written = escaped(root.written) if family.pattern else root.written
        name = self._of(written or ".", secret=secret)
        return f"${{{name}}}/{rest}" if rest else f"${{{name}}}"

    def _of(self, value: str, *, secret: bool) -> str:
        for name, (known, _) in self.values.items():
            if known == value:
                return name
        why = (
            "credentials were left out of this URL: give them to the store's own tools, or the whole URL with --var"
            if secret
            else "another folder with --var data=…"
            if not self.values
            else ""
        )
        name = unique("data", set(self.values))
        self.values[name] = (value, why)
        return name


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip('/')}/") or root == ""


def _sources(page: Page, found: Findings, paths: dict[str, str]) -> None:
    page.add("sources:")
    for table in found.tables:
        family, options = table.family, table.family.found.options
        page.add(f"  {scalar(table.name)}:")
        page.add(f"    kind: {family.kind}", _kind_why(found, table))
        page.add(f"    path: {scalar(paths[table.name], path=True)}", _path_why(table))
        for name, value in options.items():
            page.add(f"    {name}: {flow(value)}", family.found.why.get(name, ""))
        if table.key is not None:
            seen = (
                "no two rows have the same" if table.sample.whole else "no two rows looked at have the same"
            )
            page.add(
                f"    key: {scalar(table.key)}", seen if table.match else f"{seen}; a later one is left out"
            )
        elif table is found.main and found.media is None and family.kind != "webdataset":
            page.say(
                "No column names each row for sure, so rows are known by file and number; `key:` names one.",
                4,
            )
        if table.sample.faults:
            page.say(f"Not all of it can be read; such as {shorten(table.sample.faults[0], 200)}", 4)
    reasons = list(found.unused.items())
    for reason, names in reasons[:_SHOWN]:
        page.say(f"Not used, {reason}: {examples(names)}", 2)
    if len(reasons) > _SHOWN:
        page.say(f"Not used for other reasons: {sum(len(some) for _, some in reasons[_SHOWN:]):,} files", 2)
    if any(place.cut for place in found.places):
        page.say("There are more files than were looked at.", 2)
    page.gap()


def _kind_why(found: Findings, table: Table) -> str:
    if found.media is not None and table is found.main:
        return "a record for each file; its key is its path"
    records = f"{table.sample.records:,} record{'s' * (table.sample.records != 1)}"
    return f"a table, {records}" if table.match is not None and table.sample.whole else (
        records if table.sample.whole else f"{records} of it were looked at"
    )  # fmt: skip


def _path_why(table: Table) -> str:
    names = [name.rpartition("/")[2] for name in table.family.files]
    if table.family.kind in ("image_folder", "files", "huggingface") or len(names) < 2:
        return ""
    kept_apart = [name for name in names if stem_of(name).lower() in SPLITS]
    return f"{len(names):,} files" + (
        f"; {' and '.join(kept_apart[:3])} are read as one and split anew below" if kept_apart else ""
    )


def _joins(page: Page, found: Findings) -> None:
    if not found.joined:
        return
    page.add("join:")
    for table in found.joined:
        match = table.match
        assert match is not None
        have = match.looked_at - match.unmatched
        unused = f"; {match.unused:,} rows have no record" if match.unused else ""
        page.add(f"  - table: {scalar(table.name)}")
        page.add(
            f"    left_on: {scalar(match.left)}",
            f"{have:,} of {match.looked_at:,} have a row{unused}",
        )
        page.add(f"    right_on: {scalar(match.right)}")
        if match.unmatched:
            page.add(
                "    unmatched_left: drop",
                "leaves out records without a row; `dead_letter` lists them, `error` stops the job",
            )
    page.gap()


class _Features:
    """The features of the job by name, the label, and what is to be left out."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.lines: list[tuple[str, dict[str, Any] | None, str, bool]] = []  # name, feature, why, on
        self.drops: list[tuple[str, str]] = []
        self.label: str | None = None
        self.label_why = ""
        self.others: list[str] = []
        self.label_column: str | None = None
        self._names: set[str] = set()
        chosen = self._chosen_label()
        for table in found.tables:
            for column, guess in table.guesses.items():
                self._add(table, column, guess, chosen)
        self._add_folder()
        if not any(on for _, _, _, on in self.lines):
            self._switch_on()

    def _chosen_label(self) -> tuple[str, str] | None:
        columns = [
            (table.name, column, guess)
            for table in self.found.tables
            for column, guess in table.guesses.items()
            if _can_be_label(guess) and column not in _passed_over(self.found, table)
        ]
        named = [
            (_LABELS.index(c.lower()), place)
            for place, (_, c, _) in enumerate(columns)
            if c.lower() in _LABELS
        ]
        if named:
            self.label_why = "the column is called so"
            return columns[min(named)[1]][:2]
        self.others = [column for _, column, guess in columns if _has_few_values(column, guess)]
        if len(self.others) == 1 and not (self.found.media and self.found.media.classes):
            self.label_why = "the only column with few values; name what training is to predict"
            return next((name, column) for name, column, _ in columns if column == self.others[0])
        return None

    def _add(self, table: Table, column: str, guess: Guess, chosen: tuple[str, str] | None) -> None:
        if column in _passed_over(self.found, table):
            return
        if guess.feature is None:
            self.lines.append((column, None, guess.why, False))
            return
        name = unique(identifier(column, "column"), self._names)
        feature, why = dict(guess.feature), guess.why
        is_label = chosen == (table.name, column)
        if is_label:
            feature, why = self._as_label(feature, guess, why)
            self.label, self.label_column = name, column
        elif feature["type"] == "class_label" and is_like_key(column):
            feature = {"type": "text"} | ({"default": ""} if guess.missing else {})
        if guess.missing and feature.get("type") in ("image", "bytes"):
            self.drops.append((f"no {name}", column))
        if name != column:
            feature = {"type": feature.pop("type"), "from": column, **feature}
        is_key = table is self.found.main and column == table.key and not is_label and only_names(column)
        if is_key:
            why = "the key; without the # it is stored too"
        self.lines.append((name, feature, why, not is_key))

    def _as_label(self, feature: dict[str, Any], guess: Guess, why: str) -> tuple[dict[str, Any], str]:
        numbers = [int(name) for name in guess.classes if name.lstrip("-").isdigit()]
        in_a_row = numbers == list(range(len(numbers))) or len(guess.classes) <= _FEW_CLASSES
        if guess.classes and (feature["type"] != "int64" or in_a_row):
            kept = {"type": "class_label", "names": list(guess.classes)}
            more = "; others may follow" if "looked at" in why else ""
            why = f"its values, in the order of their numbers{more}"
        else:
            kept = {key: value for key, value in feature.items() if key != "default"}
        if guess.missing:
            self.drops.append(("no label", ""))
        return kept, why

    def _add_folder(self) -> None:
        media = self.found.media
        if media is None or not media.classes:
            return
        name = unique("label" if self.label is None else "folder", self._names)
        names = ", ".join(media.classes)
        self.lines.insert(
            1,
            (
                name,
                {"type": "class_label", "names": "folders"},
                f"{len(media.classes)}: {shorten(names, 60)}",
                True,
            ),
        )
        if self.label is None:
            self.label, self.label_why = name, "the folder that a file lies in"

    def _switch_on(self) -> None:
        """A record needs a feature: the key where there is nothing else."""
        for place, (name, feature, why, _) in enumerate(self.lines):
            if feature is not None:
                self.lines[place] = (name, feature, why.partition(";")[0], True)
                return
        if self.found.media is not None:
            return
        raise HeadraceError(
            "No column can be a feature.",
            value=shorten("; ".join(f"{name}: {why}" for name, _, why, _ in self.lines), 400),
            where=self.found.main.name,
        )


def _passed_over(found: Findings, table: Table) -> set[str]:
    """Columns that are no features: our own, what a table is looked up by, of files all but their content."""
    if table.match is not None:
        return {table.match.right, *_INTERNAL}
    media = found.media
    return _INTERNAL if media is None else {name for name in table.guesses if name != media.column}


def _can_be_label(guess: Guess) -> bool:
    kind = (guess.feature or {}).get("type")
    return guess.feature is not None and (bool(guess.classes) or kind in ("int64", "float32", "bool"))


def _has_few_values(column: str, guess: Guess) -> bool:
    kind = (guess.feature or {}).get("type")
    few = 0 < len(guess.classes) <= _FEW_CLASSES or kind in ("class_label", "bool")
    return few and column.lower() not in _NO_LABELS and not is_like_key(column)


def _clean(page: Page, plan: _Features) -> None:
    if not plan.drops:
        return
    page.add("clean:")
    for rule, column in plan.drops:
        values = {"drop": rule, "column": column or plan.label_column, "values": [None]}
        page.add(f"  - {flow(values)}", "records without a value are left out, and counted by this name")
    page.gap()


def _features(page: Page, plan: _Features) -> None:
    page.add("features:")
    for name, feature, why, on in plan.lines:
        if feature is None:
            page.say(f"{shown(name)} is left out: {why}", 2)
        elif on:
            page.add(f"  {scalar(name)}: {flow(feature)}", why)
        else:
            page.off(f"  {scalar(name)}: {flow(feature)}", why)
    if plan.found.media is not None:
        page.off(
            "  path: {type: text}",
            "the file's path below the source's folder; without the # it is stored too",
        )
    page.gap()
    if plan.label is not None:
        page.add(f"label: {scalar(plan.label)}", plan.label_why)
    else:
        could = f"; it may be {' or '.join(plan.others[:5])}" if plan.others else ""
        page.off("label: NAME", f"the feature that training predicts is not known{could}")
    page.gap()


def _split(page: Page, found: Findings, plan: _Features) -> None:
    sample = found.main.sample
    enough = not sample.whole or sample.records >= _MIN_TO_SPLIT
    page.add("split:", "by a hash of the key: adding data moves no record to another split")
    if enough:
        page.add("  fractions: {train: 0.8, validation: 0.1, test: 0.1}")
    else:
        page.add(
            "  fractions: {train: 1.0}",
            f"{sample.records:,} records are few to split: {{train: 0.8, test: 0.2}}",
        )
    folders = splits_in(found.media.files) if found.media is not None else []
    if folders:
        page.say(
            f"There are folders called {' and '.join(folders[:4])}; records of all are dealt anew. To keep one out, "
            f"name it in the source: exclude: [{scalar(f'**/{folders[0]}/**')}]",
            2,
        )
    for table in found.tables:
        for column in table.guesses:
            if column.lower() in _NO_LABELS:
                page.say(
                    f"The column {shown(column)} may say how the data were split before; they are dealt anew.",
                    2,
                )
    group = group_of(found.main.values, [found.main.key or "", plan.label_column or ""])
    if group is not None and found.media is None:
        page.off(f"  by: {scalar(group)}", "records that share it stay in one split")


def _budget(page: Page, found: Findings) -> None:
    """Room for dead letters where more than usual are to be expected."""
    shares = [
        table.sample.unreadable / (table.sample.records + table.sample.unreadable) for table in found.tables
    ]
    shares += [guess.broken for table in found.tables for guess in table.guesses.values()]
    if max(shares) * 2 > _USUAL_SHARE:
        page.gap()
        page.add("write:")
        share = min(100, math.ceil(max(shares) * 100) + 1)
        page.add(
            f"  max_dead_letters: {share}%",
            f"{max(shares):.1%} of the records of a source cannot be read; by default more than 1% ends the job",
        )
