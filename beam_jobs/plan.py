"""From a job file to a plan: sources opened, partitions listed, everything fingerprinted. No Beam."""

from __future__ import annotations

import hashlib
import itertools
import platform
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.clean import columns_after, constants
from beam_jobs.data_schema.expect import Expectations, expect
from beam_jobs.duplicates.signatures import signature_facts
from beam_jobs.expressions import engine_version
from beam_jobs.facts import Fact, describe, row_of
from beam_jobs.functions import function_fingerprint, source_fingerprint
from beam_jobs.indexed import row_type
from beam_jobs.join import TableFiles, columns_after_join, count_buckets
from beam_jobs.listing import PartitionList
from beam_jobs.rules.conditions import has_expression
from beam_jobs.rules.languages import version as model_version
from beam_jobs.runs import RUN_SUFFIX
from beam_jobs.sources import open_source
from beam_jobs.sources.base import Materialized, Partition, Selective, Source
from beam_jobs.sources.files import Files
from beam_jobs.split_lists import Entries, Lists, read_lists
from beam_jobs.splits import split_facts
from beam_jobs.statistics.defaults import default_facts
from beam_jobs.statistics.pictures import picture_facts
from beam_jobs.store import Store, open_store
from beam_jobs.store_lock import WORK
from beam_jobs.store_path import StorePath
from beam_jobs.survey.apply import needs_survey, title
from beam_jobs.union import check_shapes
from schemas import HeadraceError, JobSpec, __version__, load_spec, read_manifest
from schemas.columns import indexed_by_default
from schemas.errors import shorten
from schemas.features import ClassLabelFeature, Feature, ImageFeature
from schemas.hashing import fingerprint
from schemas.load import fill_variables
from schemas.naming import MANIFEST
from schemas.packing import pack
from schemas.remote_errors import redacted
from schemas.rules import MapRule, Rule
from schemas.spec import Join, Member
from schemas.split import Split
from schemas.survey_rules import WeightsRule
from schemas.value_rules import TagLanguageRule


@dataclass(frozen=True)
class Job:
    """A job spec and where its data lie.

    Attributes:
      spec: the job as written.
      variables: values of the variables in paths.
    """

    spec: JobSpec
    variables: Mapping[str, str] = field(default_factory=dict)


def load_job(path: str | Path, variables: Mapping[str, str] | None = None) -> Job:
    """The job in a YAML file; `variables` override its own `vars`. Relative paths start in the current folder.

    Raises:
      HeadraceError: the file is missing or no valid job, or a variable is not one of its own.
    """
    spec = load_spec(path)
    for name in variables or {}:
        if name not in spec.vars:
            raise HeadraceError(
                f"The job has no variable {name!r}.",
                where=str(path),
                allowed=", ".join(sorted(spec.vars)) or "none",
                hint="Declare it under `vars:` with its default.",
            )
    return Job(spec, {**spec.vars, **(variables or {})})


@dataclass(frozen=True)
class Workspace:
    """Where a data set and its work files lie: everything of one data set is below `<out>/<name>`, a store."""

    root: StorePath
    version: str

    def of(self, version: str) -> Workspace:
        """That of another version of the data set."""
        return Workspace(self.root, version)

    @property
    def dataset(self) -> StorePath:
        """The committed version's directory."""
        return self.root / self.version

    @property
    def is_committed(self) -> bool:
        """Whether the version exists."""
        return (self.dataset / MANIFEST).exists()

    @property
    def work(self) -> StorePath:
        """Everything that is not a committed version."""
        return self.root / WORK

    @property
    def runs(self) -> StorePath:
        """Sorted runs, by fingerprint."""
        return self.work / "runs"

    @property
    def tables(self) -> StorePath:
        """Tables to be joined, by fingerprint."""
        return self.work / "tables"

    @property
    def rows(self) -> StorePath:
        """Rows of sources that are read by a pipeline of their own."""
        return self.work / "rows"

    @property
    def analysis(self) -> StorePath:
        """What transforms have found in shards."""
        return self.work / "analysis"

    @property
    def raw(self) -> StorePath:
        """The version's shards before they are transformed, where transformed ones are written."""
        return self.work / f"raw-{self.version}"

    @property
    def analysed(self) -> StorePath:
        """Which of it the version's transform was made of."""
        return self.work / f"analysis-{self.version}.json"

    @property
    def survey(self) -> StorePath:
        """What was found in each partition for rules that need the train split."""
        return self.work / "survey"

    def surveyed(self, number: int) -> StorePath:
        """The list of the partitions of the survey of that number, and of what each left."""
        return self.work / f"survey{number}-{self.version}.jsonl"

    @property
    def stage(self) -> StorePath:
        """The version while it is being written."""
        return StorePath(self.root.store, self.root.store.stage(self.version))

    @property
    def partitions(self) -> StorePath:
        """The list of the job's partitions."""
        return self.work / f"partitions-{self.version}.jsonl"

    @property
    def shard_notes(self) -> StorePath:
        """What is known of each finished shard of the stage."""
        return self.work / f"shards-{self.version}"

    @property
    def statistics(self) -> StorePath:
        """The statistics of each shard of the version."""
        return self.work / f"statistics-{self.version}"

    @property
    def inputs(self) -> StorePath:
        """What is noted of the committed version; see `previous.Note`."""
        return self.work / f"inputs-{self.version}.json"

    @property
    def placements(self) -> StorePath:
        """Where records of each run go, by the run's name, where not only their own rows told that."""
        return self.work / f"placements-{self.version}"

    @property
    def repeated(self) -> StorePath:
        """Key hashes that occurred more than once in the committed version."""
        return self.work / f"repeated-{self.version}.bin"

    @property
    def dead_letters(self) -> StorePath:
        """Dead letters of a job that was not committed."""
        return self.work / f"dead_letters-{self.version}.parquet"

    @property
    def anomalies(self) -> StorePath:
        """Anomalies of a job that was not committed."""
        return self.work / f"anomalies-{self.version}.json"

    @property
    def drift(self) -> StorePath:
        """How far the committed version lies from the one that was there before."""
        return self.work / f"drift-{self.version}.json"


@dataclass(frozen=True)
class Previous:
    """A committed version whose records a job may take over; see `beam_jobs.previous`.

    Attributes:
      version: its version.
      fingerprint: of its manifest.
      shards: how many each split has.
      placed: whether files beside its runs say where its records are; see `beam_jobs.placement`.
    """

    version: str
    fingerprint: str
    shards: list[int]
    placed: bool = False


@dataclass(frozen=True)
class TransformPlan:
    """What a job's transform comes to.

    Attributes:
      fingerprint: of all that changes what is made of a shard.
      phases: how many passes over the records the analysis takes.
      outputs: the features that the transformed records hold, where they are written.
    """

    fingerprint: str
    phases: int
    outputs: dict[str, Feature] | None


@dataclass(frozen=True)
class JobPlan:
    """All that a worker needs to know of a job; small, and the same for every worker.

    Attributes:
      spec: the job as written.
      features: the features with the names of folders filled in.
      roots: path of every source, variables filled in.
      tables: files of every joined table.
      table_partitions: the partitions of every joined table.
      workspace: where things are written.
      code: fingerprint of Headrace and the libraries that make the bytes.
      records: fingerprint of all that changes a record, but for the record itself and the tables.
      basis: fingerprint of all that changes a run, but for the partition itself.
      inputs: fingerprint of the user's side of the version: spec, functions, sources, schema.
      found: what each cleaning rule needs that was found beforehand, None for most; see `beam_jobs.survey.apply`.
      expectations: what statistics are compared with before the commit, if the job has a schema.
      preprocessing: content hash of the code of the transform's function, if there is one.
      transform: what the transform comes to; see `beam_jobs.transform.plan`.
      previous: the version of which unchanged records are taken over, if there is one.
      lists: what the job's lists of splits say, if it has any.
      against: directory and fingerprint of each version that records are compared with, by how the job names it.
      attempt: which run of the job it is; it changes no bytes. See `beam_jobs.wire.end_attempt`.
    """

    spec: JobSpec
    features: dict[str, Feature]
    roots: dict[str, str]
    tables: dict[str, TableFiles]
    table_partitions: dict[str, list[Partition]]
    workspace: Workspace
    code: str
    records: str
    basis: str
    inputs: str
    found: tuple[Any, ...] = ()
    expectations: Expectations | None = None
    preprocessing: str | None = None
    transform: TransformPlan | None = None
    previous: Previous | None = None
    lists: Lists | None = None
    against: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    attempt: str = field(default_factory=lambda: secrets.token_hex(8))

    def held(self, store: Store) -> JobPlan:
        """The same, written with `store`, which holds the lock."""
        workspace = Workspace(StorePath(store, ""), self.workspace.version)
        tables = {
            name: replace(files, directory=StorePath(store, files.directory.path))
            for name, files in self.tables.items()
        }
        lists = self.lists and replace(self.lists, path=StorePath(store, self.lists.path.path))
        return replace(self, workspace=workspace, tables=tables, lists=lists)

    def with_found(self, number: int, found: Any) -> JobPlan:
        """The same with what a survey found for a cleaning rule: records made with something else are others."""
        every = (*self.found[:number], found, *self.found[number + 1 :])
        records = fingerprint(self.records, number, found)
        return replace(self, found=every, records=records, basis=_basis(records, self.tables))

    def source(self, name: str) -> Source:
        """The source of that name, opened."""
        source = open_source(name, self.spec.sources[name], self.roots[name])
        return source.at(self.workspace.rows / self.code) if isinstance(source, Materialized) else source

    def member(self, name: str) -> Member:
        """The main source of that name, as the job wants it."""
        return next(member for member in self.spec.members if member.source == name)

    def join(self, table: str) -> Join:
        """The join of a table."""
        return next(join for join in self.spec.join if join.table == table)

    def run_path(self, partition: Partition) -> StorePath:
        """The run of a partition, named by all that can change its bytes."""
        return self.workspace.runs / f"{_partition_fingerprint(self.basis, partition)}{RUN_SUFFIX}"

    @cached_property
    def index_row(self) -> np.dtype[np.void]:
        """The type of a row of what the indexes hold of the features."""
        return row_type(self.features, self.spec.indexed)

    @cached_property
    def facts(self) -> list[Fact]:
        """What is noted of every record beside it."""
        return facts_of(self.spec, self.features)

    @cached_property
    def fact_row(self) -> np.dtype[np.void]:
        """The type of a row of facts."""
        return row_of(self.facts)

    @cached_property
    def packing(self) -> dict[str, list[str]]:
        """The features that each vector of a record holds."""
        return pack(self.features) if self.spec.pack else {}

    @property
    def materializes(self) -> bool:
        """Whether the shards hold transformed records."""
        return self.transform is not None and self.transform.outputs is not None

    @property
    def assembled(self) -> StorePath:
        """Where shards are assembled: the stage, unless they are to be transformed first."""
        return self.workspace.raw if self.materializes else self.workspace.stage

    @property
    def stored(self) -> dict[str, Feature]:
        """The features that the shards of the version hold."""
        outputs = None if self.transform is None else self.transform.outputs
        return self.features if outputs is None else outputs

    @property
    def stored_indexed(self) -> list[str]:
        """Those that their indexes hold too."""
        if not self.materializes:
            return self.spec.indexed
        return (
            indexed_by_default(self.stored, self.spec.label) if self.spec.index is None else self.spec.index
        )

    @cached_property
    def stored_row(self) -> np.dtype[np.void]:
        """The type of a row of what their indexes hold of the features."""
        return row_type(self.stored, self.stored_indexed)

    @cached_property
    def stored_packing(self) -> dict[str, list[str]]:
        """The features that each vector of their records holds."""
        return pack(self.stored) if self.spec.pack else {}

    @property
    def train_split(self) -> int:
        """The number of the split that rules may learn from: the one called train, or the only one.

        Raises:
          HeadraceError: there is none.
        """
        names = self.split_names
        if "train" in names:
            return names.index("train")
        if len(names) > 1:
            raise HeadraceError(
                "Rules that learn from the data need to know which split is for training.",
                where="split",
                value=", ".join(names),
                allowed="one of them called train",
            )
        return 0

    @property
    def split_names(self) -> list[str]:
        """The splits in the order of the spec, which is the order of their numbers."""
        return self.spec.split.names


def plan_job(job: Job, out: str | Path) -> tuple[JobPlan, PartitionList]:
    """The plan of a job that writes below `out`, and the partitions of its main sources.

    Raises:
      HeadraceError: a source is missing, unreadable or empty, or the spec asks for what it does not have.
    """
    spec = job.spec
    workspace = Workspace(StorePath(open_store(out, spec.name), ""), spec.version)
    expectations = None
    if spec.expected is not None:
        expectations = expect(
            spec.expected, job.variables, spec.split.names, lambda other: str(workspace.of(other).dataset)
        )
    roots = {
        name: fill_variables(source.path, job.variables, f"sources.{name}.path")
        for name, source in spec.sources.items()
    }
    listed = {
        name: PartitionList(open_source(name, source, roots[name]).partitions())
        for name, source in spec.sources.items()
    }
    # Which of two records with one key came first: the order of the union, then that of its members.
    mains = itertools.chain.from_iterable(listed.pop(name) for name in spec.main_names)
    main = PartitionList(replace(partition, ordinal=ordinal) for ordinal, partition in enumerate(mains))
    partitions = {name: list(found) for name, found in listed.items()}
    features = _resolve(spec, roots, main)
    found = tuple(constants(rule) for rule in spec.clean)
    code, functions = code_fingerprint(), function_fingerprints(spec, found)
    lists = _lists(job, workspace)
    # Only of a source whose records can be read singly will a later version ask what each found in a table.
    digested = any(
        isinstance(open_source(name, spec.sources[name], roots[name]), Selective) for name in spec.main_names
    )
    kinds = fingerprint(code, digested)
    tables = {
        join.table: replace(
            _table_files(workspace.tables, kinds, spec, join, partitions[join.table]), digested=digested
        )
        for join in spec.join
    }
    records = fingerprint(
        code,
        functions,
        spec.model_dump(
            by_alias=True, mode="json", include={"sources", "main", "join", "clean", "split", "seed"}
        ),
        {name: feature.model_dump(by_alias=True, mode="json") for name, feature in features.items()},
        [sorted(spec.indexed), spec.pack],
        describe(facts_of(spec, features)),
        lists and lists.digest,
    )
    basis = _basis(records, tables)
    every = itertools.chain(main, *partitions.values())
    identities = [[partition.source, partition.identity] for partition in every]
    transform = spec.transforming
    preprocessing = None
    if transform is not None and transform.function is not None:
        preprocessing = source_fingerprint(transform.function, "transform.function")
        functions["transform"] = preprocessing
    against = _against(spec, job.variables, workspace)
    # Without a schema, lists and versions to compare with, as it ever was.
    further = [] if expectations is None else [expectations.fingerprint]
    further += [] if lists is None else [lists.digest]
    inputs = fingerprint(spec.fingerprint, functions, identities, *further, *map(list, against.values()))
    plan = JobPlan(
        spec,
        features,
        roots,
        tables,
        partitions,
        workspace,
        code,
        records,
        basis,
        inputs,
        found,
        expectations,
        preprocessing,
        lists=lists,
        against=against,
    )
    _check_columns(plan)
    return plan, main


def _against(spec: JobSpec, variables: Mapping[str, str], workspace: Workspace) -> dict[str, tuple[str, str]]:
    found = {}
    for name in spec.duplicates.against if spec.duplicates is not None else []:
        directory = fill_variables(name, variables, "duplicates.against")
        if re.fullmatch(r"\d+\.\d+\.\d+", directory):
            directory = str(workspace.of(directory).dataset)
        found[name] = (directory, read_manifest(directory).fingerprint)
    return found


# Who wants facts of a job's records: a line for each.
_WANTED: list[Callable[[JobSpec, Mapping[str, Feature]], list[Fact]]] = [
    default_facts,
    picture_facts,
    split_facts,
    signature_facts,
]


def facts_of(spec: JobSpec, features: Mapping[str, Feature]) -> list[Fact]:
    """What a job notes of every record beside it, in the order of the fields of a row."""
    return [fact for wanted in _WANTED for fact in wanted(spec, features)]


def list_entries(job: Job) -> tuple[Entries, str]:
    """What the job's lists of splits hold, and the digest of that."""
    split = job.spec.split
    paths = {
        name: fill_variables(path, job.variables, f"split.lists.{name}") for name, path in split.lists.items()
    }
    return read_lists(paths, split.names, split.list_column)


def _lists(job: Job, workspace: Workspace) -> Lists | None:
    if job.spec.split.kind != "lists":
        return None
    _, digest = list_entries(job)
    return Lists(workspace.tables / f"lists-{digest}.bin", digest)


def import_from_here() -> None:
    """User functions may lie in the current folder, as they may for `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def function_fingerprints(spec: JobSpec, found: Iterable[Any]) -> dict[str, str]:
    """Content hash of the code of each of the user's functions, and what else the rules use: engines, tables."""
    functions = {
        rule.map: function_fingerprint(rule.map, f"clean, map {rule.map}")
        for rule in spec.clean
        if isinstance(rule, MapRule)
    }
    if any(has_expression(rule) for rule in spec.clean):
        functions["expressions"] = f"duckdb=={engine_version()}"
    if any(isinstance(rule, TagLanguageRule) for rule in spec.clean):
        functions["languages"] = model_version()
    return functions | {f"clean {n}": fingerprint(each) for n, each in enumerate(found) if each is not None}


@cache
def code_fingerprint() -> str:
    """Content hash of all that makes the bytes: our own code, the libraries' versions, Python's."""
    digest = hashlib.blake2b(digest_size=16)
    here = Path(__file__).parent
    for folder in (here, here.parent / "schemas"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(here.parent)}\0".encode() + file.read_bytes() + b"\0")
    libraries = [f"{name}=={version(name)}" for name in ("numpy", "pillow", "pyarrow")]
    digest.update("\0".join([__version__, *libraries, *platform.python_version_tuple()[:2]]).encode())
    return digest.hexdigest()


def _basis(records: str, tables: Mapping[str, TableFiles]) -> str:
    return fingerprint(records, [files.name for files in tables.values()])


def _partition_fingerprint(basis: str, partition: Partition) -> str:
    # The ordinal stays out: a file added before must not make every later run a new one.
    return fingerprint(basis, partition.source, partition.identity)


def _table_files(
    directory: StorePath, made_by: str, spec: JobSpec, join: Join, partitions: list[Partition]
) -> TableFiles:
    source = spec.sources[join.table].model_dump(by_alias=True, mode="json", exclude={"path"})
    kind = fingerprint(made_by, join.table, source, join.right_keys, join.many)
    buckets = count_buckets(join, partitions)
    name = fingerprint(kind, buckets, [p.identity for p in partitions])
    return TableFiles(directory, name, kind, buckets, digested=False)


def _resolve(spec: JobSpec, roots: Mapping[str, str], main: Iterable[Partition]) -> dict[str, Feature]:
    """The features with `names: folders` filled in."""
    features = dict(spec.features)
    for name, feature in spec.features.items():
        if isinstance(feature, ClassLabelFeature) and feature.names == "folders":
            found: set[str] = set()
            for member in spec.main_names:
                source = open_source(member, spec.sources[member], roots[member])
                assert isinstance(source, Files), "the spec allows `folders` only there"
                found.update(source.folders(p for p in main if p.source == member))
            names = sorted(found)
            if names == [""]:
                raise HeadraceError(
                    "The images lie in no folders that could name their classes.",
                    where=f"features.{name}.names",
                    value=", ".join(redacted(roots[member]) for member in spec.main_names),
                    hint="Put the images of each class in a folder of its own, or list the names.",
                )
            update = {"names": names, "source": feature.source or "folder"}
            features[name] = feature.model_copy(update=update)
    return features


def _check_columns(plan: JobPlan) -> None:
    """A column that cannot exist is an error before anything is read; a user's function may add any column."""
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
