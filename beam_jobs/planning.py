"""From a job file to a plan: sources opened, partitions listed, everything fingerprinted. No Beam."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa

from beam_jobs.check_names import check_names
from beam_jobs.clean import constants
from beam_jobs.data_schema.expect import expect
from beam_jobs.expressions import engine_version
from beam_jobs.facts import describe
from beam_jobs.functions import function_fingerprint, source_fingerprint
from beam_jobs.join import TableFiles, count_buckets
from beam_jobs.listing import PartitionList
from beam_jobs.plan import JobPlan, basis_of, facts_of
from beam_jobs.rules.conditions import has_expression
from beam_jobs.rules.languages import version as model_version
from beam_jobs.sources import open_source
from beam_jobs.sources.base import Partition, is_selective
from beam_jobs.sources.files import Files
from beam_jobs.split_lists import Entries, Lists, read_lists
from beam_jobs.store import open_store
from beam_jobs.store_path import StorePath
from beam_jobs.workspace import Workspace
from schemas import HeadraceError, JobSpec, __version__, load_spec, read_manifest
from schemas.features import ClassLabelFeature, Feature
from schemas.hashing import fingerprint
from schemas.load import fill_variables
from schemas.remote_errors import redacted
from schemas.rules import MapRule
from schemas.spec import Join
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
        is_selective(open_source(name, spec.sources[name], roots[name])) for name in spec.main_names
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
    basis = basis_of(records, tables)
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
    check_names(plan)
    return plan, main


def _against(spec: JobSpec, variables: Mapping[str, str], workspace: Workspace) -> dict[str, tuple[str, str]]:
    found = {}
    for name in spec.duplicates.against if spec.duplicates is not None else []:
        directory = fill_variables(name, variables, "duplicates.against")
        if re.fullmatch(r"\d+\.\d+\.\d+", directory):
            directory = str(workspace.of(directory).dataset)
        found[name] = (directory, read_manifest(directory).fingerprint)
    return found


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
    top = str(Path(__file__).parent.parent)
    for folder in ("beam_jobs", "schemas"):
        # Not by pathlib, which takes three times as long, and every job waits for it.
        walked = os.walk(f"{top}/{folder}")
        for path in sorted(
            f"{at}/{name}" for at, _, names in walked for name in names if name.endswith(".py")
        ):
            with open(path, "rb", buffering=0) as file:
                digest.update(f"{path[len(top) :]}\0".encode() + file.read() + b"\0")
    libraries = [f"{library.__name__}=={library.__version__}" for library in (np, PIL, pa)]
    digest.update("\0".join([__version__, *libraries, *platform.python_version_tuple()[:2]]).encode())
    return digest.hexdigest()


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
