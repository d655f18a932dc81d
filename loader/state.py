"""Where training stands: a few numbers from which the loader seeks. No TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loader.checks import check_count
from loader.order import Batches, Order
from schemas import HeadraceError

STATE_FORMAT = 1


@dataclass(frozen=True)
class Start:
    """A place in the endless row of epochs.

    Attributes:
      epoch: its number.
      position: in the epoch; all before it have been seen.
      step: batches (examples, where there are none) taken since the beginning of training.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0


@dataclass
class Cursor:
    """What moves.

    Attributes:
      place: where the next iteration begins.
    """

    place: Start


def end_of_iteration(place: Start, epochs: int) -> int:
    """The epoch before which an iteration from `place` on ends, where iterations have `epochs` epochs."""
    return (place.epoch // epochs + 1) * epochs


def advance(start: Start, order: Order, batches: Batches, step: int) -> Start:
    """The place after `step` batches in all.

    Raises:
      HeadraceError: `start` is later, or there are no batches.
    """
    check_count("step", step, start.step)
    left, epoch, position = int(step) - start.step, start.epoch, start.position
    while left:
        steps = batches.steps(order.count(epoch) - position)
        if left < steps:
            position += left * batches.size
            break
        if steps == 0 and position == 0:
            raise HeadraceError("There is no such step: an epoch has no batches.", where="step", value=step)
        left -= steps
        epoch, position = epoch + 1, 0
    return Start(epoch, position, int(step))


def to_dict(start: Start, order: Order, data: str) -> dict[str, Any]:
    """The JSON-able form; `data` names the data set for people and for error messages."""
    return {
        "headrace_state": STATE_FORMAT,
        "data": data[:200],
        "order": order.identity,
        "step": start.step,
        "epoch": start.epoch,
        "position": start.position,
    }


def from_dict(state: Mapping[str, Any], order: Order, data: str) -> Start:
    """The place that a state names.

    Raises:
      HeadraceError: it is not a state, or one of another data set, seed or selection.
    """
    try:
        form, found = state["headrace_state"], state["order"]
        start = Start(*(int(state[name]) for name in ("epoch", "position", "step")))
    except (KeyError, TypeError, ValueError) as error:
        raise HeadraceError(
            "This is not a state of a loader.",
            where="state",
            value=state,
            allowed="what loader.state(step) gave",
        ) from error
    if form != STATE_FORMAT:
        raise HeadraceError(
            "The state was saved by another version of Headrace.",
            where="state",
            value=f"format {form!r}",
            allowed=f"format {STATE_FORMAT}",
        )
    if found != order.identity:
        raise HeadraceError(
            "The state belongs to another order of examples.",
            where="state",
            value=state.get("data"),
            allowed=data,
            hint="Data set version, split, seed, shuffle, filters and mixture must be those it was saved with; "
            "number of hosts, threads, cache and augmentation may differ.",
        )
    if min(start.epoch, start.position, start.step) < 0 or start.position > order.count(start.epoch):
        raise HeadraceError(
            "The state lies outside the epoch.",
            where="state",
            value=start.position,
            allowed=f"0 … {order.count(start.epoch)}",
        )
    return start
