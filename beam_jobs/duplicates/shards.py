"""The signatures of a version's shards, for jobs that compare their records with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beam_jobs.duplicates.signatures import encode_signatures, signature_facts
from beam_jobs.facts import row_of
from beam_jobs.merge import Merge, merged_facts
from beam_jobs.plan import JobPlan
from beam_jobs.store_path import StorePath
from schemas.naming import signatures_name


def sign_shard(plan: JobPlan, name: str, hashes: npt.NDArray[np.uint8], merge: Merge) -> None:
    """Writes the signatures of a shard's records into the stage, if the job compares records."""
    if facts := signature_facts(plan.spec, plan.features):
        data = encode_signatures(hashes, merged_facts(merge, row_of(facts)))
        (plan.workspace.stage / signatures_name(name)).write(data, durable=True)


def signature_files(plan: JobPlan, name: str) -> list[str]:
    """The file of a shard's signatures, if the job compares records."""
    return [] if plan.spec.duplicates is None else [signatures_name(name)]


def take_signatures_along(plan: JobPlan, old: StorePath, name: str) -> None:
    """Links the signatures of a shard that is taken over from the version in `old`."""
    for path in signature_files(plan, name):
        (old / path).copy_to(plan.workspace.stage / path)
