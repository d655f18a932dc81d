"""Building and checking a job's graph for an engine, without running it: Beam's own dry run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from beam_jobs.listing import write_partitions
from beam_jobs.local_store import LocalStore
from beam_jobs.materialize import build_rows, transforms_of
from beam_jobs.pipeline import build_pipeline
from beam_jobs.planning import Job, import_from_here, plan_job
from beam_jobs.previous import list_partitions
from beam_jobs.runners import parse_options, run_pipeline
from beam_jobs.store_path import StorePath
from beam_jobs.survey.run import build_survey, passes
from beam_jobs.transform.plan import plan_transform
from schemas import HeadraceError
from schemas.units import format_bytes

_DATAFLOW_BYTES = 10 << 20  # what Dataflow takes of a job's description


@dataclass(frozen=True)
class Graph:
    """A job as an engine would get it.

    Attributes:
      name, version: of the data set.
      partitions: of the main source.
      transforms: nodes of the graph, composites among them; with those of the pipelines of sources and surveys.
      bytes: size of its description, of the largest where there are several.
    """

    name: str
    version: str
    partitions: int
    transforms: int
    bytes: int

    def line(self) -> str:
        """The graph in a sentence."""
        return (
            f"The graph of {self.name} {self.version} is sound: {self.partitions:,} partitions, "
            f"{self.transforms:,} transforms, {format_bytes(self.bytes)}. Nothing was submitted."
        )


def check_graph(job: Job, out: str | Path, options: Sequence[str]) -> Graph:
    """Builds the graph of a job as Dataflow would get it; reads no data, and needs no network but for its sources.

    Raises:
      HeadraceError: the job, its options or its graph are not what Dataflow takes.
    """
    import_from_here()
    beam_options = parse_options(options)
    plan, partitions = plan_job(job, out)
    plan = plan_transform(plan)
    with tempfile.TemporaryDirectory() as folder:
        scratch = StorePath(LocalStore(Path(folder)), "partitions.jsonl")
        refs = write_partitions(scratch, list_partitions(plan, partitions))
        builds = [partial(build_pipeline, plan=plan, partitions=refs)]
        builds += [partial(build_rows, plan=plan, name=name) for name in transforms_of(plan)]
        surveys = range(len(passes(plan.spec.clean)))
        builds += [partial(build_survey, plan=plan, number=number, refs=refs) for number in surveys]
        protos = [run_pipeline(build, beam_options).job.proto_pipeline for build in builds]
    graph = Graph(
        plan.spec.name,
        plan.spec.version,
        len(partitions),
        sum(len(proto.components.transforms) for proto in protos),
        max(proto.ByteSize() for proto in protos),
    )
    if graph.bytes > _DATAFLOW_BYTES:
        raise HeadraceError(
            "The graph is too large for Dataflow.",
            value=format_bytes(graph.bytes),
            allowed=format_bytes(_DATAFLOW_BYTES),
            hint="Give the source larger partitions.",
        )
    return graph
