"""Which turns the benchmark takes: those in which the threads' cores are as far apart as asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import convext
from bench import cores, machine, measure

ONE_CORE, NEAR, FAR, ABSENT = 5e-8, 1e-7, 5e-7, 0.0


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Trips that are measured one after the other, the last for ever."""
    left = [NEAR]
    monkeypatch.setattr(convext._C, "measure_line_trip", lambda: left.pop(0) if len(left) > 1 else left[0])
    return left


@pytest.mark.parametrize(
    ("wanted", "good"), [("near", (NEAR,)), ("far", (FAR,)), ("any", (ONE_CORE, NEAR, FAR, ABSENT))]
)
def test_as_wanted(wanted: str, good: tuple[float, ...], trips: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "wanted", wanted)
    for trip in (ONE_CORE, NEAR, FAR, ABSENT):
        trips[:] = [trip]
        assert cores.as_wanted(2) is (trip in good)
        assert cores.as_wanted(1)
    assert cores.said() in machine.blocks(5, 0.05)


def calls_of(names: list[str]) -> list[Callable[[], None]]:
    return [lambda: names.append("a"), lambda: names.append("b")]


def test_turns_on_other_cores_are_taken_again(trips: list[float]) -> None:
    # not begun; begun and not counted; then two that are
    trips[:] = [FAR, NEAR, FAR, NEAR, NEAR, NEAR]
    names: list[str] = []
    turns = measure.in_turn(calls_of(names), 2, 0.001, 2)
    assert [len(side) for side in turns.samples] == [2, 2] and turns.elsewhere == 0 and len(trips) == 1
    # the order changes from one turn that counts to the next
    changes = "".join(names[4:]).replace("aa", "a").replace("bb", "b")
    assert changes.startswith("a") and changes.endswith("a")


def test_patience_ends(trips: list[float]) -> None:
    trips[:] = [FAR]
    turns = measure.in_turn(calls_of([]), 2, 0.001, 3)
    assert [len(side) for side in turns.samples] == [3, 3] and turns.elsewhere == 1


def test_a_trip_is_measured_where_two_threads_run_at_once(threads: None) -> None:
    torch.set_num_threads(1)
    assert convext._C.measure_line_trip() == 0
    torch.set_num_threads(2)
    assert all(trip == 0 or 1e-8 < trip < 1e-3 for trip in (convext._C.measure_line_trip() for _ in range(20)))
