"""A transform on other engines: the bytes of the embedded runner, of the graph, of raw and of transformed records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.engine import prism
from tests.engines.flink_cluster import JOB_SERVER, FlinkCluster
from tests.transform.transform_job import EVERYTHING, digests, make_job, run_apart

pytestmark = pytest.mark.transform

ROWS = 400


@pytest.mark.parametrize("materialize", [False, True])
def test_same_bytes(materialize: bool, tmp_path: Path) -> None:
    transform = f"{{function: {EVERYTHING}, materialize: {str(materialize).lower()}}}"
    job = make_job(tmp_path, transform, rows=ROWS)
    wanted = digests(run_apart(job, tmp_path / "embedded"))
    assert any(path.startswith("transform_fn/") for path in wanted)
    on_prism = run_apart(job, tmp_path / "prism", *prism("--environment_type=PROCESS"))
    assert digests(on_prism) == wanted
    with FlinkCluster(tmp_path / "cluster") as cluster:
        flags = ["--runner=FlinkRunner", f"--flink_master={cluster.master}"]
        on_flink = run_apart(job, tmp_path / "flink", *flags, f"--flink_job_server_jar={JOB_SERVER}")
        assert digests(on_flink) == wanted
