"""Dataflow without Google: the graph is built and checked as Dataflow would get it, and nothing is submitted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import Job, run
from beam_jobs.graph import check_graph
from beam_jobs.materialize import build_rows
from beam_jobs.planning import plan_job
from beam_jobs.runners import parse_options, run_pipeline
from schemas import HeadraceError, parse_spec
from tests.engines.engine import ROOT
from tests.jobs.small_job import make_job

pytestmark = pytest.mark.dataflow
IMAGE = "--sdk_container_image=europe-docker.pkg.dev/my-project/images/headrace:0.1.0"
FLAGS = [
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=europe-west1",
    "--temp_location=gs://my-bucket/tmp",
    IMAGE,
]
DRY = "--dry_run=True"


def test_dry_run_needs_no_network(data: Path, tmp_path: Path) -> None:
    """In a network of its own that has no interface at all; needs root, as CI has."""
    make_job(data)
    arguments = ["run", data / "job.yaml", f"--var=data={data}", f"--out={tmp_path}", "--json", *FLAGS, DRY]
    command = "import sys; from beam_jobs.cli import entry; sys.exit(entry())"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    graph = json.loads(done.stdout)
    assert (graph["name"], graph["version"], graph["partitions"]) == ("cells", "1.0.0", 16)
    assert graph["transforms"] > 10
    assert graph["bytes"] > 1000
    assert list(tmp_path.iterdir()) == []


def test_output_on_this_machine_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="cannot write to this machine's disk"):
        run(make_job(data), tmp_path, FLAGS)


def test_workers_need_an_image(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="need a container image") as caught:
        check_graph(make_job(data), tmp_path, [*FLAGS[:-1], DRY])
    assert "--sdk_container_image" in (caught.value.allowed or "")


def test_what_beam_misses_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        HeadraceError, match=r"(?s)does not take these options.*Missing required option: project"
    ):
        check_graph(make_job(data), tmp_path, ["--runner=DataflowRunner", IMAGE, DRY])


BIGQUERY = """
name: rows
version: 1.0.0
sources:
  rows: {kind: bigquery, WHAT, method: METHOD, key: id, columns: {id: string, x: float64}, version: "1"}
features: {x: {type: float32}}
"""


@pytest.mark.parametrize("method", ["direct", "export"])
@pytest.mark.parametrize("what", ["table: my-project.set.table", "query: SELECT id FROM t"])
def test_graphs_of_bigquery(method: str, what: str, tmp_path: Path) -> None:
    job = Job(parse_spec(BIGQUERY.replace("METHOD", method).replace("WHAT", what)))
    plan, _ = plan_job(job, tmp_path / "out")
    options = parse_options([*FLAGS, DRY])
    built = run_pipeline(lambda pipeline: build_rows(pipeline, plan, "rows"), options).job.proto_pipeline
    names = {transform.unique_name for transform in built.components.transforms.values()}
    assert [name for name in names if "ReadFromBigQuery" in name]
    assert {"Spill", "Group", "Merge", "Gather", "Count"} <= names
    assert not (tmp_path / "out").exists()


def test_a_graph_counts_those_of_its_sources(tmp_path: Path) -> None:
    job = Job(parse_spec(BIGQUERY.replace("METHOD", "direct").replace("WHAT", "query: SELECT id FROM t")))
    graph = check_graph(job, tmp_path / "out", [*FLAGS, DRY])
    assert graph.transforms > 50
    assert graph.partitions == 64
