"""Where the files of a data set lie."""

from __future__ import annotations

from dataclasses import dataclass

from beam_jobs.store_lock import WORK
from beam_jobs.store_path import StorePath
from schemas.naming import MANIFEST


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
