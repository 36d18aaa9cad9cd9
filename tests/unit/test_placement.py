"""Placement of sources on ingest actors and of sources on aggregators, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.placement import place, shards
from stream.rules import CrowdRule

LOADS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0.1, 30), max_size=20)


@pytest.mark.parametrize(
    ("loads", "actors", "current", "expected"),
    [
        ({}, ["i0"], {}, {}),
        ({"a": 5}, ["i0", "i1"], {}, {"a": "i0"}),
        ({"a": 5, "b": 5}, ["i0", "i1"], {}, {"a": "i0", "b": "i1"}),
        ({"a": 5, "b": 5}, ["i0", "i1"], {"a": "i1"}, {"a": "i1", "b": "i0"}),  # stays where it is
        ({"a": 5, "b": 5}, ["i1"], {"a": "i0", "b": "i1"}, {"a": "i1", "b": "i1"}),  # its actor is gone
        ({"a": 5, "b": 5}, ["i0", "i1"], {"a": "i0", "b": "i0"}, {"a": "i1", "b": "i0"}),  # a new actor takes its share
        ({"a": 10, "b": 1}, ["i0", "i1"], {"a": "i0", "b": "i0"}, {"a": "i0", "b": "i1"}),
        ({"a": 10}, ["i0", "i1"], {"a": "i1", "gone": "i0"}, {"a": "i1"}),
    ],
)
def test_place(loads: dict[str, float], actors: list[str], current: dict[str, str], expected: dict[str, str]) -> None:
    assert place(loads, actors, current) == expected


@pytest.mark.parametrize(
    ("actors", "late", "current", "expected"),
    [
        (["i0"], ["i1"], {"a": "i0", "b": "i1"}, {"a": "i0", "b": "i1", "c": "i0"}),  # keeps what it has, gets nothing new
        (["i0"], [], {"a": "i0", "b": "i1"}, {"a": "i0", "b": "i0", "c": "i0"}),
        ([], ["i1"], {"b": "i1"}, {"b": "i1"}),
        ([], [], {"b": "i1"}, {}),
    ],
)
def test_place_while_actors_do_not_answer(
    actors: list[str], late: list[str], current: dict[str, str], expected: dict[str, str]
) -> None:
    assert place({"a": 5, "b": 5, "c": 5}, actors, current, late) == expected


@given(LOADS, st.integers(1, 5), st.data())
def test_placement_is_complete_stable_and_balanced(loads: dict[str, float], count: int, data: st.DataObject) -> None:
    actors = [f"i{n}" for n in range(count)]
    current = data.draw(st.dictionaries(st.sampled_from(sorted(loads) or ["x"]), st.sampled_from([*actors, "dead"])))
    placed = place(loads, actors, current)
    assert placed.keys() == loads.keys()
    assert set(placed.values()) <= set(actors)
    for _ in range(len(loads) * count):
        placed = place(loads, actors, placed)
    assert place(loads, actors, placed) == placed
    if loads:
        carried = [sum(loads[s] for s, a in placed.items() if a == actor) for actor in actors]
        assert max(carried) <= sum(loads.values()) / count + 2 * max(loads.values()) + 1e-6


def test_shards_keep_sources_of_one_rule_together() -> None:
    ids = [f"cam{n}" for n in range(40)]
    rule = CrowdRule(name="site", type="crowd", zones=["cam3/a", "cam17/a", "cam29/b"], above=10)
    found = shards([rule], ids, 4)
    assert found["cam3"] == found["cam17"] == found["cam29"]
    assert set(found.values()) == {0, 1, 2, 3}
    alone = shards([], ids, 4)
    assert {i: s for i, s in found.items() if i not in ("cam3", "cam17", "cam29")} == {
        i: s for i, s in alone.items() if i not in ("cam3", "cam17", "cam29")
    }


def test_chained_rules_join_all_their_sources() -> None:
    rules = [
        CrowdRule(name="one", type="crowd", zones=["a/z", "b/z"], above=1),
        CrowdRule(name="two", type="crowd", zones=["c/z", "b/z"], above=1),
    ]
    found = shards(rules, ["a", "b", "c"], 8)
    assert len(set(found.values())) == 1
