"""The statistics of a committed version, or of a file, to compare with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from schemas.anomalies import Compared
from schemas.errors import HeadraceError
from schemas.manifest import read_manifest
from schemas.naming import STATISTICS
from schemas.statistics import MAX_STATISTICS_BYTES, Statistics, parse_statistics
from schemas.storage import open_place


@dataclass(frozen=True)
class Version:
    """What is known of a version.

    Attributes:
      statistics: of its splits.
      called: its name for people, such as `cells 1.0.0`.
      identity: which one it is; None for a file of statistics by itself.
    """

    statistics: Statistics
    called: str
    identity: Compared | None = None


def read_version(where: str) -> Version:
    """The statistics in a version's directory, a path or a URL; or in a file of this machine.

    Raises:
      HeadraceError: there is no version, it has no statistics, or they are not as they were committed.
    """
    if "://" not in where and Path(where).is_file():
        try:
            data = Path(where).read_bytes() if Path(where).stat().st_size <= MAX_STATISTICS_BYTES else None
        except OSError as error:
            raise HeadraceError(
                "The statistics cannot be read.", where=where, value=error.strerror
            ) from error
        if data is None:
            raise HeadraceError(
                "The file is too large.", where=where, allowed=f"{MAX_STATISTICS_BYTES} bytes"
            )
        return Version(parse_statistics(data, where), Path(where).name)
    place = open_place(where)
    manifest = read_manifest(place)
    entry = next((entry for entry in manifest.files if entry.path == STATISTICS), None)
    if entry is None:
        raise HeadraceError(
            "The version has no statistics.",
            where=str(place),
            hint="It was prepared without `statistics:`. Prepare it as a new version.",
        )
    try:
        data = place.read_bytes(STATISTICS, MAX_STATISTICS_BYTES)
    except OSError as error:
        raise HeadraceError(
            "The statistics of the version cannot be read.", where=place.where(STATISTICS), value=str(error)
        ) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise HeadraceError(
            "The statistics of the version are not as they were committed.",
            where=place.where(STATISTICS),
            hint=f"Run `headrace verify {place}`.",
        )
    identity = Compared(name=manifest.name, version=manifest.version, fingerprint=manifest.fingerprint)
    statistics = parse_statistics(data, place.where(STATISTICS))
    return Version(statistics, f"{manifest.name} {manifest.version}", identity)
