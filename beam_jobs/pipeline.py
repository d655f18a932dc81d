"""The Beam graph of a job. Wiring only.

deal partitions → build runs → place → settle → find references → GroupByKey → assemble shards → commit
                                                 with a transform: assemble shards → analyse → (apply →) commit
"""

from __future__ import annotations

from operator import attrgetter

import apache_beam as beam

from beam_jobs.assemble import AssembleShards
from beam_jobs.build import BuildRuns
from beam_jobs.commit import Commit
from beam_jobs.gather import Deal
from beam_jobs.listing import PartitionRef
from beam_jobs.placement import PlaceRuns
from beam_jobs.plan import JobPlan
from beam_jobs.settle import Settle
from beam_jobs.transform.stages import Materialize, WriteModel


def build_pipeline(pipeline: beam.Pipeline, plan: JobPlan, partitions: list[PartitionRef]) -> None:
    """Adds the whole job to `pipeline`."""
    summaries = (
        pipeline | "Partitions" >> Deal(partitions, attrgetter("bytes")) | "Build runs" >> BuildRuns(plan)
    )
    summaries = summaries | "Place runs" >> PlaceRuns(plan)
    settled = summaries | "Settle" >> Settle(plan)
    shards = summaries | "Assemble shards" >> AssembleShards(plan, settled)
    model = None if plan.transform is None else shards | "Transform" >> WriteModel(plan)
    if model is not None and plan.materializes:
        shards = shards | "Materialize" >> Materialize(plan, model)
    _ = shards | "Commit" >> Commit(plan, settled, summaries, model)
