"""A real Flink cluster of this machine: a job manager and task managers, each a Java process on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.engines.engine import ENGINES, await_, free_port

FLINK = ENGINES / "flink"
JOB_SERVER = ENGINES / "flink-job-server.jar"
SLOTS = 2  # of a task manager
# As small as Flink allows.
CONFIG = """
jobmanager: {{bind-host: localhost, rpc: {{address: localhost, port: {rpc}}}, memory: {{process: {{size: 700m}}}}}}
rest: {{address: localhost, bind-address: localhost, port: {rest}}}
taskmanager:
  bind-host: localhost
  host: localhost
  numberOfTaskSlots: {slots}
  memory: {{process: {{size: 1200m}}}}
  network: {{sort-shuffle: {{min-buffers: {buffers}}}}}
heartbeat: {{interval: 1000, timeout: 8000}}
parallelism: {{default: 1}}
io: {{tmp: {{dirs: {folder}}}}}
"""


class FlinkCluster:
    """Started with `with`; `master` is what `--flink_master` takes, `managers` are the task managers' processes."""

    def __init__(self, folder: Path, managers: int = 2, *, buffers: int = 64, show_logs: bool = True) -> None:
        assert FLINK.exists(), f"{FLINK} is missing: run scripts/engines"
        self.folder = folder
        self.master = f"localhost:{free_port()}"
        self.managers: list[subprocess.Popen[bytes]] = []
        self._manager: subprocess.Popen[bytes] | None = None
        self._wanted = managers
        self._show_logs = show_logs
        folder.mkdir(exist_ok=True)
        conf = folder / "conf"
        shutil.copytree(FLINK / "conf", conf)
        rest = self.master.split(":")[1]
        (conf / "config.yaml").write_text(
            CONFIG.format(rpc=free_port(), rest=rest, folder=folder, buffers=buffers, slots=SLOTS)
        )

    def __enter__(self) -> FlinkCluster:
        self._manager = self._start("jobmanager")
        while len(self.managers) < self._wanted:
            self.add_manager()
        try:
            # A task manager is counted a moment before its slots are.
            await_(lambda: self.overview().get("slots-available") == self._wanted * SLOTS, seconds=120)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.managers, *([self._manager] if self._manager else [])]:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # pytest shows them where a test failed.
        for log in sorted(self.folder.glob("*.log")) if self._show_logs else []:
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")

    def add_manager(self) -> None:
        """One task manager more."""
        self.managers.append(self._start("taskmanager"))

    def overview(self) -> dict[str, int]:
        """What the cluster says of itself; nothing while it starts."""
        try:
            with urllib.request.urlopen(f"http://{self.master}/overview", timeout=5) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def _start(self, kind: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{kind}{len(self.managers)}.log"
        with log.open("wb") as file:
            # In the foreground, where the script becomes the Java process.
            return subprocess.Popen(
                [FLINK / "bin" / f"{kind}.sh", "start-foreground"],
                env={
                    **os.environ,
                    "FLINK_CONF_DIR": str(self.folder / "conf"),
                    "FLINK_LOG_DIR": str(self.folder),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
