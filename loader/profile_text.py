"""A profile as people read it: one screen, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from loader.profile import Profile
from schemas.units import format_bytes

_WIDTH = 80


def lines(profile: Profile) -> Iterator[str]:
    """The report, line by line."""
    size = profile.bytes / max(1, profile.records)
    yield f"{profile.data}: {profile.records:,} records, {format_bytes(profile.bytes)}, {format_bytes(size)} each"
    options = ", ".join(
        f"{name}={value}" for name, value in profile.options.items() if name not in ("split", "threads")
    )
    yield f"{options}; {_count(profile.processors, 'thread')}; measured in {profile.seconds:.0f} s"
    yield ""
    yield f"{'':<9} {'':<30} {'CPU µs an':>9} {'':>6} {'alone':>11}"
    yield f"{'stage':<9} {'':<30} {'example':>9} {'share':>6} {'examples/s':>11} {'MB/s':>8}"
    for stage in profile.stages:
        speed = 1 / stage.seconds
        mark = " <" if stage.name == profile.bound else ""
        first, *more = textwrap.wrap(stage.what, 30)
        yield (
            f"{stage.name:<9} {first:<30} {_micros(stage.cpu)} {stage.cpu / _total(profile):>6.0%} "
            f"{speed:>11,.0f} {speed * stage.bytes / 1e6:>8,.0f}{mark}"
        )
        yield from (f"{'':<9} {line}" for line in more)
    if profile.other:
        share = profile.other / _total(profile)
        yield f"{'other':<9} {'moving examples on':<30} {_micros(profile.other)} {share:>6.0%}"
    whole = profile.whole
    stored = whole.speed * profile.bytes / max(1, profile.records) / 1e6
    yield (
        f"{'all':<9} {'together, as training has it':<30} {_micros(whole.cpu)} {'':>6} "
        f"{whole.speed:>11,.0f} {stored:>8,.0f}"
    )
    yield ""
    yield from textwrap.wrap(_verdict(profile), _WIDTH)
    if not profile.native:
        yield "The native core was not built when Headrace was installed: all is slower so."
    yield ""
    yield from _idle(profile)
    yield ""
    yield from _changes(profile)


def _verdict(profile: Profile) -> str:
    if profile.waits and profile.bound in ("read", "cache"):
        return f"Bound by {profile.bound}, which waits while processors are free."
    if profile.waits:
        return f"Bound by {profile.bound}, which does not use all processors."
    if profile.bound == "other":
        cpu, most = profile.other, "moving examples on, which larger batches share"
    else:
        cpu, most = next(s.cpu for s in profile.stages if s.name == profile.bound), profile.bound
    text = f"Bound by the processors, and most by {most}: {cpu / _total(profile):.0%} of their time."
    used = profile.whole.speed * profile.whole.cpu / profile.processors
    if used < 0.75:
        text += (
            f" The loader got {used:.0%} of {_count(profile.processors, 'processor')}; others were at work."
        )
    return text


def _idle(profile: Profile) -> Iterator[str]:
    batch, step = profile.options["batch_size"], profile.step_seconds
    need = batch / step
    shortest = 1000 * batch / profile.whole.speed
    yield f"A step of {1000 * step:g} ms takes {need:,.0f} examples/s; data keep up with {shortest:.1f} ms."
    yield (
        f"Accelerator idle: {profile.idle_predicted:.1%} predicted, {profile.idle_measured:.1%} measured "
        "with a simulated step."
    )


def _changes(profile: Profile) -> Iterator[str]:
    if profile.changes:
        yield f"{'what would help':<44} {'predicted':>17} {'measured':>17}"
    elif profile.complete:
        yield "No change of those that were tried makes it faster by more than 5 %."
    for change in profile.changes:
        first, *rest = textwrap.wrap(change.what + ("" if change.whole else " *"), 44)
        yield f"{first:<44} {_gain(change.predicted, profile)} {_gain(change.measured, profile)}"
        yield from (f"  {line}" for line in rest)
    if not all(change.whole for change in profile.changes):
        yield "* in the job; measured on records stored so in memory, for the stage it changes"
    if not profile.complete:
        seconds = 2 * profile.seconds
        yield f"Time was up before all changes were tried; give it more with --seconds {seconds:.0f}."


def _gain(speed: float, profile: Profile) -> str:
    return f"{speed:>8,.0f}/s {speed / profile.whole.speed:>4.1f} ×"


def _micros(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:>9,.0f}" if value >= 10 else f"{value:>9.2f}"


def _total(profile: Profile) -> float:
    return sum(stage.cpu for stage in profile.stages) + profile.other


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
