"""How many replicas and ingest actors: tables of what was measured."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingContext

from actors.autoscaling import TARGET_USE, Load, Steady, detector_replicas, ingest_actors


@dataclass
class Context:
    current_num_replicas: int = 2
    target_num_replicas: int = 2
    total_num_requests: float = 0.0
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None = field(default_factory=dict)


def metrics(busy: list[float], late: float = 0.0) -> Mapping[str, Mapping[str, float]]:
    return {"busy": {str(i): one for i, one in enumerate(busy)}, "late": {"0": late}}


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        (Context(aggregated_metrics=None), 2),  # nothing measured yet
        (Context(3, 4, 20.0), 4),
        (Context(aggregated_metrics=metrics([0.0, 0.0])), 1),  # idle
        (Context(aggregated_metrics=metrics([0.7, 0.7])), 2),
        (Context(aggregated_metrics=metrics([0.35])), 1),  # the second one has just been started
        (Context(aggregated_metrics=metrics([1.0, 1.0])), 2 / 0.7),
        (Context(total_num_requests=8.0, aggregated_metrics=metrics([0.3, 0.3])), 4),  # a backlog
        (Context(aggregated_metrics=metrics([0.3, 0.3]) | {"batches": {"0": 6.0, "1": 2.0}}), 4),  # the same, through doors
        (Context(aggregated_metrics=metrics([0.6, 0.6], late=0.9)), 3),  # late and busy
        (Context(aggregated_metrics=metrics([0.2, 0.2], late=0.9)), 1),  # late, but it is not the detector
        (Context(aggregated_metrics=metrics([0.6, 0.6], late=0.6)), 1.2 / 0.7),
    ],
)
def test_detector_replicas(context: Context, wanted: float) -> None:
    found, state = detector_replicas(context)
    assert found == pytest.approx(wanted)
    assert state == {}


def test_the_context_is_serves() -> None:
    names = inspect.signature(AutoscalingContext.__init__).parameters.keys() - {"self"}
    given = {"current_num_replicas": 1, "target_num_replicas": 1, "total_num_requests": lambda: 1.0}
    context = AutoscalingContext(**dict.fromkeys(names) | given | {"aggregated_metrics": lambda: metrics([0.9])})
    assert detector_replicas(context)[0] == pytest.approx(0.9 / 0.7)


@pytest.mark.parametrize(
    ("use", "current", "wanted"),
    [
        (0.0, 1, 1),
        (0.79, 1, 1),
        (0.81, 1, 2),
        (2.4, 1, 3),
        (9.0, 1, 4),  # most
        (1.5, 2, 2),
        (0.7, 2, 2),  # one would do, but only just
        (0.6, 2, 1),
        (0.0, 4, 1),
        (2.0, 4, 4),
        (1.8, 4, 3),
    ],
)
def test_ingest_actors(use: float, current: int, wanted: int) -> None:
    assert ingest_actors(use, current, 1, 4) == wanted


@given(st.floats(0, 100), st.integers(1, 40), st.integers(1, 5), st.integers(0, 30))
def test_ingest_actors_come_to_rest(use: float, current: int, least: int, more: int) -> None:
    first = ingest_actors(use, current, least, least + more)
    assert least <= first <= least + more
    assert ingest_actors(use, first, least, least + more) == first
    assert first == least + more or use <= first * TARGET_USE + 1e-6


def test_a_number_follows_what_is_wanted_for_a_while() -> None:
    number = Steady(2, up_after_s=10, down_after_s=60)
    assert [number.follow(3, t) for t in (0, 5, 9.9)] == [2, 2, 2]
    assert number.follow(2, 9.95) == 2  # that was not all the time
    assert [number.follow(3, t) for t in (10, 19, 20)] == [2, 2, 3]
    assert [number.follow(1, t) for t in (21, 80, 81)] == [3, 3, 1]
    assert Steady(1, 0, 0).follow(4, 0) == 4


def test_the_load_of_a_replica() -> None:
    now = [100.0]
    load = Load(0.5, lambda: now[0])

    def step(seconds: float) -> None:
        now[0] += seconds

    step(1)
    load.begin()
    step(1)
    load.begin()  # both at once count once
    step(1)
    load.end(now[0] - 0.25)
    step(1)
    load.end(None)
    step(1)
    assert load.take() == {"busy": pytest.approx(3 / 5), "batches": pytest.approx(4 / 5), "late": pytest.approx(0.5)}
    load.begin()
    step(2)
    assert load.take() == {"busy": pytest.approx(1.0), "batches": pytest.approx(1.0), "late": 0.0}
    step(1)
    load.end(now[0] - 1)
    step(1)
    assert load.take() == {"busy": pytest.approx(0.5), "batches": pytest.approx(0.5), "late": pytest.approx(2.0)}
