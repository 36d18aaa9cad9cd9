"""Which actor is told what, round by round; the actors answer as told here."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import reconcile
from actors.ingest import IngestStatus
from actors.reconcile import Reconciler
from actors.record import Record
from stream.clock import SystemClock
from stream.config import PipelineConfig
from stream.config_file import parse_config

ZONE = {"name": "floor", "polygon": [[0, 0], [1, 0], [1, 1]]}
A_AND_Z = {"name": "both", "type": "crowd", "zones": ["a/floor", "z/floor"], "above": 3}


def config(tmp_path: Path, ids: str = "az", rules: tuple[dict[str, Any], ...] = ()) -> PipelineConfig:
    sources = [{"id": name, "uri": f"rtsp://h/{name}", "zones": [ZONE], "fps": 5} for name in ids]
    service = {"aggregators": 2, "ingest_actors": 2, "state_dir": "state"}
    detectors = {"people": {"model": "m.onnx"}}
    return parse_config({"detectors": detectors, "sources": sources, "alerts": list(rules), "service": service}, "test", tmp_path)


class Rounds:
    """A reconciler, whose rounds are made one by one, and what it has told each actor in the last."""

    def __init__(self, reconciler: Reconciler):
        self._reconciler = reconciler
        self.told: dict[str, list[tuple[Any, ...]]] = {}
        self.leaving: dict[str, list[str]] = {}

    async def tell(self, name: str, *what: Any) -> Any:
        self.told.setdefault(name, []).append(what)
        return IngestStatus(0.0, [], self.leaving.get(name, [])) if name.startswith("ingest") else None

    async def next(self, wanted: PipelineConfig) -> dict[str, list[list[str]]]:
        """Ids of the sources that each actor was told, each time it was told."""
        self.told = {}
        self._reconciler.set_wanted(wanted.sources, wanted.alerts)
        await self._reconciler._reconcile()
        return {name: [[source.id for source in what[0]] for what in each] for name, each in self.told.items()}


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Rounds], Any]], None]:
    """``play(scene)`` runs an async function with :class:`Rounds`."""

    async def nothing(*_args: object, **_options: object) -> None:
        pass

    monkeypatch.setattr(reconcile, "end_actors", nothing)
    monkeypatch.setattr(reconcile, "named_actors", list)
    monkeypatch.setattr(reconcile.Overview, "update", nothing)
    monkeypatch.setattr(Reconciler, "_keep_reconciling", nothing)

    def run(scene: Callable[[Rounds], Any]) -> None:
        async def whole() -> None:
            record = Record(tmp_path / "control", SystemClock())
            reconciler = Reconciler(config(tmp_path), {}, record)
            rounds = Rounds(reconciler)
            monkeypatch.setattr(reconciler, "_tell", rounds.tell)
            await scene(rounds)
            record.close()

        asyncio.run(whole())

    return run


def test_ingests_are_told_no_zones_so_that_a_change_of_them_opens_no_camera(play: Any, tmp_path: Path) -> None:
    async def scene(rounds: Rounds) -> None:
        await rounds.next(config(tmp_path))
        before = {name: each[-1][0] for name, each in rounds.told.items() if name.startswith("ingest")}
        assert all(not source.zones for sources in before.values() for source in sources)
        bare = config(tmp_path)
        changed = bare.model_copy(update={"sources": [s.model_copy(update={"zones": []}) for s in bare.sources]})
        await rounds.next(changed)
        assert {name: each[-1][0] for name, each in rounds.told.items() if name.startswith("ingest")} == before

    play(scene)


def test_a_source_that_a_rule_moves_is_kept_for_a_round_where_it_was(play: Any, tmp_path: Path) -> None:
    async def scene(rounds: Rounds) -> None:
        apart = await rounds.next(config(tmp_path))
        there = {name: each[0] for name, each in apart.items() if name.startswith("aggregator")}
        assert sorted(there.values()) == [["a"], ["z"]]
        joined = config(tmp_path, rules=(A_AND_Z,))
        moving = await rounds.next(joined)
        of_z = next(name for name, ids in there.items() if ids == ["z"])
        of_a = next(name for name, ids in there.items() if ids == ["a"])
        assert (moving[of_a], moving[of_z]) == ([["a", "z"]], [["z"]])
        assert {each[-1][1]["z"] for name, each in rounds.told.items() if name.startswith("ingest")} == {int(of_a[-1])}
        moved = await rounds.next(joined)
        assert (moved[of_a], moved[of_z]) == ([["a", "z"]], [[]])
        assert [rule.name for rule in rounds.told[of_z][0][1]] == ["both"]

    play(scene)


def test_a_source_is_read_nowhere_else_before_it_has_ended(play: Any, tmp_path: Path) -> None:
    """It was read by one actor; removed, it does not end; and when it comes back there is less to do elsewhere."""

    async def scene(rounds: Rounds) -> None:
        first = await rounds.next(config(tmp_path))
        of_z = next(name for name, each in first.items() if name.startswith("ingest") and "z" in each[0])
        rounds.leaving = {of_z: ["z"]}
        await rounds.next(config(tmp_path, "a"))
        waiting = await rounds.next(config(tmp_path, "abz"))
        assert [each[-1] for name, each in waiting.items() if name.startswith("ingest")] == [["a"], ["b"]], "it waits"
        rounds.leaving = {}
        await rounds.next(config(tmp_path, "abz"))
        done = await rounds.next(config(tmp_path, "abz"))
        read = [source_id for name, each in done.items() if name.startswith("ingest") for source_id in each[-1]]
        assert sorted(read) == ["a", "b", "z"]
        assert "z" not in done[of_z][-1]

    play(scene)
