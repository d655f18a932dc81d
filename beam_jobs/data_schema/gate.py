"""Before the commit: statistics are compared with the schema, and what is not allowed stops the job, or is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.differences import drift_from, skew_between
from beam_jobs.data_schema.expect import FIELD, Expectations
from beam_jobs.data_schema.versions import Version, read_version
from beam_jobs.plan import JobPlan
from beam_jobs.previous import notes
from beam_jobs.workspace import Workspace
from schemas.anomalies import Anomalies, Anomaly, Compared, parse_anomalies
from schemas.errors import HeadraceError
from schemas.manifest import read_manifest
from schemas.naming import ANOMALIES, STATISTICS
from schemas.statistics import Statistics

_SHOWN = 3  # anomalies in an error


@dataclass(frozen=True)
class Verdict:
    """What there is to say of the data.

    Attributes:
      own: anomalies that follow from the job, its sources and what it names: they are part of the version.
      drift: from the version that happened to be committed last: they are noted beside it.
    """

    own: list[Anomaly]
    drift: list[Anomaly]


def judge(expectations: Expectations, statistics: Statistics, before: Version | None) -> Verdict:
    """All anomalies of a version's statistics.

    Args:
      expectations: of the job.
      statistics: of the version.
      before: the version that drift is measured from; None where there is none.
    """
    check, schema = expectations.check, expectations.schema
    own = find_anomalies(schema, statistics)
    if check.skew is not None:
        own += skew_between(schema, statistics, check.skew.between)
    drift = [] if before is None else drift_from(schema, statistics, before.statistics, before.called)
    return Verdict(own, drift) if expectations.compared is None else Verdict([*own, *drift], [])


def pass_gate(plan: JobPlan, statistics: Statistics) -> dict[str, bytes]:
    """The files that tell of a version's anomalies, by their path in it: none where the job has no schema.

    Drift from the version before is noted in the work directory: a version's bytes depend on no other that its job
    does not name.

    Raises:
      HeadraceError: there are anomalies that stop the job. They are all in a file of the work directory.
    """
    expectations, workspace = plan.expectations, plan.workspace
    if expectations is None:
        return {}
    before, missing = _before(expectations, workspace)
    verdict = judge(expectations, statistics, before)
    found = [*verdict.own, *verdict.drift, *missing]
    stopping = [each for each in found if expectations.check.action(each) == "stop"]
    if stopping:
        report = _report(expectations, found, None if before is None else before.identity)
        workspace.anomalies.write(report, durable=True)
        raise _stopped(stopping, len(found), expectations, workspace)
    if expectations.compared is None and (before is not None or missing):
        compared = None if before is None else before.identity
        drift = [*verdict.drift, *missing]
        workspace.drift.write(_report(expectations, drift, compared), durable=True)
    else:
        workspace.drift.delete()
    return {ANOMALIES: _report(expectations, verdict.own, expectations.compared)}


def told_anomalies(workspace: Workspace) -> list[Anomaly]:
    """The anomalies of a committed version, and its drift from the one before, as far as they were noted."""
    found: list[Anomaly] = []
    for path in (workspace.dataset / ANOMALIES, workspace.drift):
        try:
            found += parse_anomalies(path.read(), str(path)).anomalies
        except FileNotFoundError:
            continue
    return found


def _before(expectations: Expectations, workspace: Workspace) -> tuple[Version | None, list[Anomaly]]:
    """The version to measure drift from, and what to say where it has no statistics."""
    if expectations.check.drift is None:
        return None, []
    if expectations.place is not None:
        before = read_version(expectations.place)
        if before.identity != expectations.compared:
            raise HeadraceError(
                "The version that drift is measured from has been replaced while the job ran.",
                where=expectations.place,
                hint="Run the same command again.",
            )
        return before, []
    others = [
        (note.sequence, version) for version, note in notes(workspace).items() if version != workspace.version
    ]
    if not others:
        return None, []
    place = str(workspace.of(max(others)[1]).dataset)
    manifest = read_manifest(place)
    if all(entry.path != STATISTICS for entry in manifest.files):
        return None, [
            Anomaly(
                kind="not_checked",
                what=f"Drift cannot be measured from {manifest.name} {manifest.version}: it has no statistics.",
                found="no statistics.json",
                allowed="statistics.json",
                hint="Nothing: from the next version on there are some.",
            )
        ]
    return read_version(place), []


def _report(expectations: Expectations, anomalies: list[Anomaly], drift_from: Compared | None) -> bytes:
    skew = expectations.check.skew
    report = Anomalies(
        schema_fingerprint=expectations.schema.fingerprint,
        drift_from=drift_from,
        skew_between=[] if skew is None else skew.between,
        anomalies=anomalies,
    )
    return report.to_json().encode()


def _stopped(
    stopping: Sequence[Anomaly], found: int, expectations: Expectations, workspace: Workspace
) -> HeadraceError:
    examples = [
        f"\n  {each.kind} {each.where}: {each.what} Found {each.found}; allowed {each.allowed}."
        for each in stopping[:_SHOWN]
    ]
    more = f"\n  and {len(stopping) - _SHOWN:,} more" if len(stopping) > _SHOWN else ""
    return HeadraceError(
        f"The data are not what the schema expects: {len(stopping):,} of {found:,} "
        f"{'anomaly stops' if found == 1 else 'anomalies stop'} the job. Nothing was committed."
        f"{''.join(examples)}{more}",
        where=f"{FIELD}.file: {expectations.check.file}",
        hint=f"{stopping[0].hint} All of them are in {workspace.anomalies}. What is finished is kept: run again when "
        f"the data or the schema are mended, or let them pass with `{FIELD}.on_anomaly`.",
    )
