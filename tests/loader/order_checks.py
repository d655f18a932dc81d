"""What every order must keep: any step resumed on any number of hosts gives the same batches."""

from __future__ import annotations

from loader.order import Batches, HostView, Order
from loader.state import Start, advance


def batches(order: Order, size: int, hosts: int, last: str, start: Start) -> list[list[int]]:
    """The batches of the rest of an epoch, put together from those of all hosts; holes are -1."""
    views = [HostView(order, Batches(size, last, host, hosts)) for host in range(hosts)]
    left = order.count(start.epoch) - start.position
    found: list[list[int]] = []
    rows = [
        view.take(start.epoch, start.position, 0, view.rows(start.epoch, start.position))[1].tolist()
        for view in views
    ]
    for step in range(views[0].batches.steps(left)):
        part = size // hosts
        found.append([i for own in rows for i in own[step * part : (step + 1) * part]])
    return found


def check_every_step(order: Order, size: int, epochs: int = 2) -> None:
    """Resumes at every step of some epochs, and compares the rest of the epoch on 1, 2, 4 and 8 hosts."""
    for last in ("keep", "drop", "pad"):
        whole = [batches(order, size, 1, last, Start(epoch)) for epoch in range(epochs)]
        for step in range(sum(map(len, whole))):
            place = advance(Start(), order, Batches(size, last), step)
            expected = whole[place.epoch][place.position // size :]
            assert place == Start(place.epoch, place.position, step)
            for hosts in (1, 2, 4, 8):
                found = batches(order, size, hosts, last, place)
                if last == "keep":  # rows that a host lacks are holes there
                    found, expected = ([[i for i in b if i >= 0] for b in bs] for bs in (found, expected))
                assert found == expected, (last, step, hosts)
