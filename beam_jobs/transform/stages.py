"""The transform's place in the Beam graph. Imported by every job: what imports TensorFlow is imported when it runs.

Per phase: each shard's part → gathered → merged in the order of shards → the next phase; then the model. What Beam
carries are names of files. Its combiners are never used: they merge in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam

from beam_jobs.assemble import Shard
from beam_jobs.gather import Gather
from beam_jobs.memory import give_back
from beam_jobs.plan import JobPlan
from beam_jobs.wire import for_runners
from schemas.manifest import FileEntry

Part = tuple[int, str]  # number of the shard, and the file of its part
Found = str | None  # the file of all values found so far; None before the first phase


@for_runners
def analyse(shard: Shard, plan: JobPlan, phase: int, before: Found) -> Part:
    """A shard's part of a phase of the analysis."""
    if "tensorflow" not in sys.modules:
        give_back()  # what building runs and shards has left
    from beam_jobs.transform.analysis import analyse_shard

    return shard.number, analyse_shard(plan, shard.entry, phase, before)


@for_runners
def merge(parts: Sequence[Part], plan: JobPlan, phase: int, before: Found) -> Found:
    """The parts of all shards merged."""
    from beam_jobs.transform.analysis import merge_parts

    give_back()
    return merge_parts(plan, phase, before, [name for _, name in sorted(parts)])


@for_runners
def write(found: Found, plan: JobPlan) -> list[FileEntry]:
    """The files of the model, written into the stage."""
    from beam_jobs.transform.analysis import write_model

    give_back()
    return write_model(plan, found)


@for_runners
def apply(shard: Shard, plan: JobPlan, model: Sequence[FileEntry]) -> Shard:
    """A shard of transformed records in the place of one of raw ones."""
    from beam_jobs.transform.apply import transform_shard

    return replace(shard, entry=transform_shard(plan, shard.entry, model))


@dataclass(eq=False)
class WriteModel(beam.PTransform):
    """Finished shards to the files of transform_fn/, as one list."""

    plan: JobPlan

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[list[FileEntry]]:
        """Shard → Part → Found → list of FileEntry (one)."""
        plan, transform = self.plan, self.plan.spec.transforming
        assert transform is not None, "only a job with a transform comes here"
        assert plan.transform is not None, "only a job with a transform comes here"
        split = plan.split_names.index(transform.split)
        found: Any = shards.pipeline | "Nothing found" >> beam.Create([None], reshuffle=False)
        if plan.transform.phases:
            own = shards | "Analysed shards" >> beam.Filter(lambda shard: shard.split == split)
        for phase in range(plan.transform.phases):
            before = beam.pvalue.AsSingleton(found)
            found = (
                own
                | f"Analyse {phase}" >> beam.Map(analyse, plan, phase, before)
                | f"Gather {phase}" >> Gather()
                | f"Merge {phase}" >> beam.Map(merge, plan, phase, before)
            )
        return found | "Write model" >> beam.Map(write, plan)


@dataclass(eq=False)
class Materialize(beam.PTransform):
    """Shards of raw records, with the model's files beside them, to shards of transformed ones."""

    plan: JobPlan
    model: beam.PCollection[list[FileEntry]]

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[Shard]:
        """Shard → Shard."""
        return shards | "Apply" >> beam.Map(apply, self.plan, beam.pvalue.AsSingleton(self.model))
