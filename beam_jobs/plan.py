"""All that a worker needs to know of a job. No Beam."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from beam_jobs.data_schema.expect import Expectations
from beam_jobs.duplicates.signatures import signature_facts
from beam_jobs.facts import Fact, row_of
from beam_jobs.indexed import row_type
from beam_jobs.join import TableFiles
from beam_jobs.runs import RUN_SUFFIX
from beam_jobs.sources import open_source
from beam_jobs.sources.base import Partition, Source, is_materialized
from beam_jobs.split_lists import Lists
from beam_jobs.splits import split_facts
from beam_jobs.statistics.defaults import default_facts
from beam_jobs.statistics.pictures import picture_facts
from beam_jobs.store import Store
from beam_jobs.store_path import StorePath
from beam_jobs.workspace import Workspace
from schemas import HeadraceError, JobSpec
from schemas.columns import indexed_by_default
from schemas.features import Feature
from schemas.hashing import fingerprint
from schemas.packing import pack
from schemas.spec import Join, Member


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
        return replace(self, found=every, records=records, basis=basis_of(records, self.tables))

    def source(self, name: str) -> Source:
        """The source of that name, opened."""
        source = open_source(name, self.spec.sources[name], self.roots[name])
        return source.at(self.workspace.rows / self.code) if is_materialized(source) else source

    def member(self, name: str) -> Member:
        """The main source of that name, as the job wants it."""
        return next(member for member in self.spec.members if member.source == name)

    def join(self, table: str) -> Join:
        """The join of a table."""
        return next(join for join in self.spec.join if join.table == table)

    def run_path(self, partition: Partition) -> StorePath:
        """The run of a partition, named by all that can change its bytes."""
        # The ordinal stays out: a file added before must not make every later run a new one.
        return (
            self.workspace.runs
            / f"{fingerprint(self.basis, partition.source, partition.identity)}{RUN_SUFFIX}"
        )

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


def basis_of(records: str, tables: Mapping[str, TableFiles]) -> str:
    """The fingerprint of all that changes a run, but for the partition itself; see `JobPlan`."""
    return fingerprint(records, [files.name for files in tables.values()])
