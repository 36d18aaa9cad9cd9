"""Which actor is told what, round by round; the actors answer as told here."""

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.constants import REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD

from actors import reconcile, roster
from actors.control import Control
from actors.lease import LEASE_S
from actors.mandate import Mandate
from actors.reconcile import Reconciler, digest_of
from actors.record import Record
from stream.clock import SystemClock
from stream.config import PipelineConfig, TrackerConfig
from stream.config_file import parse_config
from stream.detectors.base import InputSpec
from stream.detectors.registry import ModelDescription
from tests.support.actors import Actor, Cluster

ZONE = {"name": "floor", "polygon": [[0, 0], [1, 0], [1, 1]]}
A_AND_Z = {"name": "both", "type": "crowd", "zones": ["a/floor", "z/floor"], "above": 3}


def config(tmp_path: Path, ids: str = "az", rules: tuple[dict[str, Any], ...] = (), **settings: Any) -> PipelineConfig:
    sources = [{"id": name, "uri": f"rtsp://h/{name}", "zones": [ZONE], "fps": 5} for name in ids]
    service = {"aggregators": 2, "ingest_actors": 2, "state_dir": "state"} | settings
    detectors = {"people": {"model": "m.onnx"}}
    return parse_config({"detectors": detectors, "sources": sources, "alerts": list(rules), "service": service}, "test", tmp_path)


class Rounds:
    """A reconciler, whose rounds are made one by one, and the actors."""

    def __init__(self, reconciler: Reconciler, cluster: Cluster):
        self.reconciler, self.cluster = reconciler, cluster

    @property
    def told(self) -> dict[str, list[tuple[Any, ...]]]:
        """What each actor was told in the last round."""
        return self.cluster.told

    async def next(self, wanted: PipelineConfig | None = None) -> dict[str, list[list[str]]]:
        """Ids of the sources that each actor was told, each time it was told."""
        self.cluster.told = {}
        if wanted is not None:
            self.reconciler.set_wanted(wanted.sources, wanted.alerts)
        await self.reconciler._reconcile()
        await asyncio.sleep(0.01)  # for what goes on beside the rounds
        return {name: [[source.id for source in what[0]] for what in each] for name, each in self.told.items()}


async def nothing(*_args: object, **_options: object) -> None:
    pass


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``play(scene)`` runs an async function with :class:`Rounds`; ``cluster`` is as it is before."""
    monkeypatch.setattr(reconcile.Overview, "update", nothing)
    monkeypatch.setattr(Reconciler, "_keep_reconciling", nothing)

    def run(
        scene: Callable[[Rounds], Any], cluster: Cluster | None = None, of: PipelineConfig | None = None, models: Any = None
    ) -> None:
        async def whole() -> None:
            there = cluster or Cluster()
            there.patch(monkeypatch)
            record = Record(tmp_path / "control", SystemClock())
            reconciler = Reconciler(of or config(tmp_path), models or {}, record)
            rounds = Rounds(reconciler, there)
            await rounds.next()  # the actors begin
            await scene(rounds)
            await reconciler._roster.close()
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
        rounds.cluster.leaving = {of_z: ["z"]}
        await rounds.next(config(tmp_path, "a"))
        waiting = await rounds.next(config(tmp_path, "abz"))
        assert [each[-1] for name, each in waiting.items() if name.startswith("ingest")] == [["a"], ["b"]], "it waits"
        rounds.cluster.leaving = {}
        await rounds.next(config(tmp_path, "abz"))
        done = await rounds.next(config(tmp_path, "abz"))
        read = [source_id for name, each in done.items() if name.startswith("ingest") for source_id in each[-1]]
        assert sorted(read) == ["a", "b", "z"]
        assert "z" not in done[of_z][-1]

    play(scene)


CAMERAS = "abcdefgh"


def test_an_actor_without_room_holds_up_nothing(play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cameras are read by the others, leases are renewed, changes get through, and the number may fall again."""
    cluster = Cluster()
    cluster.silent = {"ingest-1"}
    monkeypatch.setattr(reconcile, "FIRST_WAIT_S", 0.2)
    monkeypatch.setattr(roster, "CALL_TIMEOUT_S", 0.1)

    async def scene(rounds: Rounds) -> None:
        assert await rounds.next() == {"aggregator-0": [list(CAMERAS)]}, "all cameras on the first actor that is up"
        await asyncio.sleep(0.2)
        begun_s = time.monotonic()
        cluster.cores["ingest-0"] = 2.0
        told = await rounds.next(config(tmp_path, CAMERAS))
        assert told == {"aggregator-0": [list(CAMERAS)], "ingest-0": [list(CAMERAS)]}
        assert (await rounds.next(config(tmp_path, "ab")))["ingest-0"] == [["a", "b"]]
        assert time.monotonic() - begun_s < 2
        assert "the cluster may have no room" in rounds.reconciler.faults["ingest-1"]

        cluster.cores["ingest-0"] = 0.1
        await rounds.next()
        assert cluster.killed == []
        await asyncio.sleep(0.1)
        await rounds.next()
        await rounds.next()
        await asyncio.sleep(0.2)
        assert cluster.killed == ["ingest-1"], "there are as many as before"
        assert (await rounds.next())["ingest-0"] == [["a", "b"]]
        assert rounds.reconciler.faults == {}

    range_of = {"min": 1, "max": 2, "up_after_s": 0.1, "down_after_s": 0.1}
    wanted = config(tmp_path, CAMERAS, aggregators=1, ingest_actors=range_of)
    cluster.actors = {name: Actor(cluster, name, (digest_of(wanted, {}),)) for name in ("ingest-0", "ingest-1")}
    play(scene, cluster, wanted)


def test_an_actor_that_answers_late_keeps_its_sources(play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    monkeypatch.setattr(reconcile, "answer", lambda reference: asyncio.wait_for(reference, 0.1))

    async def scene(rounds: Rounds) -> None:
        before = await rounds.next()
        assert [before["ingest-0"][-1], before["ingest-1"][-1]] == [["a"], ["z"]]
        cluster.silent = {"ingest-1"}
        await rounds.next()  # here it is found not to answer
        assert "ingest-1" not in (await rounds.next())
        assert rounds.reconciler.placement == {"a": "ingest-0", "z": "ingest-1"}
        more = await rounds.next(config(tmp_path, "abz"))
        assert more["ingest-0"] == [["a", "b"]], "a new camera waits for an actor that does not answer, or one is read twice"
        assert (await rounds.next(config(tmp_path, "ab")))["ingest-0"] == [["a", "b"]]
        assert (await rounds.next(config(tmp_path, "abz")))["ingest-0"] == [["a", "b"]], "z may still be read"

        cluster.silent = set()
        rounds.reconciler._roster._tasks["ingest-1"].cancel()  # as after START_TIMEOUT_S
        for _ in range(4):
            await rounds.next()
        assert sorted(chain(*cluster.read().values())) == ["a", "b", "z"]
        assert cluster.made == ["aggregator-0", "aggregator-1", "ingest-0", "ingest-1"], "it was another actor"

    play(scene, cluster)


def test_an_actor_that_hangs_is_killed_and_begins_anew(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    monkeypatch.setattr(reconcile, "answer", lambda reference: asyncio.wait_for(reference, 0.1))
    monkeypatch.setattr(roster, "HUNG_S", 0.2)

    async def scene(rounds: Rounds) -> None:
        await rounds.next()
        cluster.hanging = {"ingest-1", "aggregator-0"}
        await rounds.next()  # here they are found not to answer
        await rounds.next()
        assert cluster.restarted == [], "they are given time"
        assert set(rounds.reconciler.faults) == {"ingest-1", "aggregator-0"}
        await asyncio.sleep(0.3)
        assert sorted(cluster.restarted) == ["aggregator-0", "ingest-1"]
        for _ in range(2):
            await rounds.next()
        assert rounds.reconciler.faults == {}
        assert cluster.read() == {"ingest-0": ["a"], "ingest-1": ["z"]}
        assert cluster.killed == []

    play(scene, cluster)


def test_a_control_that_hangs_is_replaced_before_the_leases_of_its_actors_run_out() -> None:
    serve, start_s = Control._deployment_config, 15
    asked_s = REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD * (serve.health_check_period_s + serve.health_check_timeout_s)
    assert asked_s + serve.graceful_shutdown_timeout_s + start_s < LEASE_S


@pytest.mark.parametrize("dead", [True, False])
def test_the_sources_of_an_actor_that_is_gone_are_read_elsewhere(dead: bool, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known to be dead, or silent for longer than its lease: it has ended itself by then."""
    cluster = Cluster()
    monkeypatch.setattr(reconcile, "answer", lambda reference: asyncio.wait_for(reference, 0.1))
    monkeypatch.setattr(roster, "LEASE_S", 0.3)

    async def scene(rounds: Rounds) -> None:
        await rounds.next()
        assert cluster.read() == {"ingest-0": ["a"], "ingest-1": ["z"]}
        if dead:
            cluster.actors.pop("ingest-1").dead = True
        cluster.silent = {"ingest-1"} if not dead else set()
        await rounds.next()
        cluster.silent = {"ingest-1"}
        if not dead:
            await asyncio.sleep(0.4)
        assert (await rounds.next())["ingest-0"][-1] == ["a", "z"]

    play(scene, cluster)


def test_actors_that_are_too_many_end_before_others_read_their_sources(play: Any, tmp_path: Path) -> None:
    cluster = Cluster()
    stopping = asyncio.Event()

    async def scene(rounds: Rounds) -> None:
        await rounds.next()
        assert cluster.read() == {"ingest-0": ["a"], "ingest-1": ["z"]}

        async def stop() -> None:
            await stopping.wait()

        cluster.actors["ingest-1"].stop = SimpleNamespace(remote=lambda: asyncio.ensure_future(stop()))  # type: ignore[assignment]
        rounds.reconciler._ingest_count.value = 1  # type: ignore[union-attr]
        for _ in range(2):
            assert (await rounds.next())["ingest-0"] == [["a"]] * len(rounds.told["ingest-0"]), "read twice"
        stopping.set()
        await asyncio.sleep(0.01)
        assert (await rounds.next())["ingest-0"] == [["a", "z"]]
        assert cluster.killed == ["ingest-1"]

    play(scene, cluster)


def test_a_new_control_finds_the_actors_and_replaces_those_of_an_older_config(play: Any, tmp_path: Path) -> None:
    cluster = Cluster()
    older = config(tmp_path).model_copy(update={"tracker": TrackerConfig(low_confidence=0.3)})
    cluster.actors = {
        name: Actor(cluster, name, (digest_of(of, {}),))
        for name, of in {
            "aggregator-0": config(tmp_path),
            "ingest-0": config(tmp_path),
            "ingest-1": older,
            "ingest-2": older,
        }.items()
    }

    stopped = asyncio.Event()
    cluster.actors["ingest-2"].stop = SimpleNamespace(remote=lambda: asyncio.ensure_future(stopped.wait()))  # type: ignore[assignment]

    async def scene(rounds: Rounds) -> None:
        for _ in range(3):
            assert not {"ingest-0", "ingest-1"} & (await rounds.next()).keys(), "what ingest-2 still reads is read twice"
        stopped.set()
        for _ in range(2):
            await rounds.next()
        assert cluster.made == ["aggregator-1", "ingest-1"]
        assert sorted(cluster.killed) == ["ingest-1", "ingest-2"]
        assert cluster.read() == {"ingest-0": ["a"], "ingest-1": ["z"]}

    play(scene, cluster)


PEOPLE = ModelDescription(InputSpec(352, 352), ("person", "car"), "people@sha256:aaaaaaaaaaaa")


@pytest.mark.parametrize(
    "other",
    [
        PEOPLE._replace(model_id="people@sha256:bbbbbbbbbbbb"),
        PEOPLE._replace(input=InputSpec(416, 416)),
        PEOPLE._replace(input=InputSpec(352, 352, color="RGB")),
        PEOPLE._replace(classes=("car", "person")),
    ],
)
def test_actors_with_another_model_under_the_same_path_are_replaced(other: ModelDescription, play: Any) -> None:
    cluster = Cluster()

    async def first(_rounds: Rounds) -> None:
        cluster.made.clear()

    async def again(rounds: Rounds) -> None:
        await rounds.next()
        assert cluster.made == [], "the same model, and others"

    async def then(rounds: Rounds) -> None:
        await rounds.next()
        everyone = ["aggregator-0", "aggregator-1", "ingest-0", "ingest-1"]
        assert (sorted(cluster.killed), sorted(cluster.made)) == (everyone, everyone)
        assert cluster.actors["ingest-0"].args[2] == {"people": other}
        assert cluster.actors["aggregator-0"].args[2] == {"people": other.classes}

    for scene, model in ((first, PEOPLE), (again, PEOPLE), (then, other)):
        play(scene, cluster, models={"people": model})


def test_an_aggregator_that_is_one_too_many_ends_once_it_has_told_all(play: Any, tmp_path: Path) -> None:
    cluster, state = Cluster(), tmp_path / "state"
    for name in ("aggregator-1", "aggregator-4", "aggregator-4.drained-20260101T000000", "aggregator-x"):
        (state / name).mkdir(parents=True)
    cluster.pending, cluster.active = {"aggregator-4": 7}, {"aggregator-4": {"an alert"}}

    async def scene(rounds: Rounds) -> None:
        assert set(cluster.actors) == {"aggregator-0", "aggregator-1", "aggregator-4", "ingest-0", "ingest-1"}
        assert (await rounds.next())["aggregator-4"] == [[]]
        cluster.active.clear()
        assert (await rounds.next())["aggregator-4"] == [[]]
        cluster.pending, cluster.active = {}, {"aggregator-4": {"an alert"}}
        assert (await rounds.next())["aggregator-4"] == [[]]
        cluster.active.clear()
        assert (await rounds.next())["aggregator-4"] == [[]], "its status is that of the round"
        assert (state / "aggregator-4").is_dir()
        assert "aggregator-4" not in (await rounds.next())
        await rounds.next()
        assert (cluster.stopped, cluster.killed) == (["aggregator-4"], ["aggregator-4"])
        assert "aggregator-4" not in rounds.reconciler.aggregates
        assert not (state / "aggregator-4").exists()
        assert len(list(state.glob("aggregator-4.drained-*"))) == 2

    async def again(rounds: Rounds) -> None:
        assert "aggregator-4" not in (await rounds.next())

    play(scene, cluster)
    play(again, cluster)


def test_nothing_goes_on_after_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    cluster.silent = {"ingest-1"}
    cluster.patch(monkeypatch)
    monkeypatch.setattr(reconcile.Overview, "update", nothing)
    monkeypatch.setattr(roster, "CALL_TIMEOUT_S", 0.1)

    async def whole() -> None:
        record = Record(tmp_path / "control", SystemClock())
        reconciler = Reconciler(config(tmp_path), {}, record)
        await asyncio.sleep(0.2)
        assert sorted(cluster.actors) == ["aggregator-0", "aggregator-1", "ingest-0", "ingest-1"]
        assert reconciler.alive
        await reconciler.stop()
        assert cluster.actors == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}
        record.close()

    asyncio.run(whole())


def test_of_two_controls_the_younger_one_has_the_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while Serve replaces the replica and a live view keeps the old one; and then the new one is restarted."""
    cluster = Cluster()
    cluster.patch(monkeypatch)
    monkeypatch.setattr(reconcile.Overview, "update", nothing)
    monkeypatch.setattr(reconcile, "RECONCILE_S", 0.05)
    older, newer = config(tmp_path), config(tmp_path).model_copy(update={"tracker": TrackerConfig(low_confidence=0.3)})
    everyone = ["aggregator-0", "aggregator-1", "ingest-0", "ingest-1"]

    async def whole() -> None:
        records = [Record(tmp_path / f"control{i}", SystemClock()) for i in range(4)]
        old = Reconciler(older, {}, records[0])
        await asyncio.sleep(0.5)
        assert cluster.made == everyone
        new = Reconciler(newer, {}, records[1])
        await asyncio.sleep(1)
        assert sorted(cluster.killed) == everyone, "they end each other's actors"
        assert sorted(cluster.made) == sorted(everyone * 2)
        assert {actor.args[-1] for actor in cluster.actors.values()} == {digest_of(newer, {})}
        assert (old.alive, old.faults) == (True, {"control": "a younger one has begun"})
        assert (new.alive, new.faults) == (True, {})
        await old.stop()
        assert sorted(cluster.actors) == everyone

        again = Reconciler(newer, {}, records[2])
        await asyncio.sleep(0.5)
        assert (again.faults, new.faults) == ({}, {"control": "a younger one has begun"})
        assert len(cluster.made) == 8
        cluster.address = "127.0.0.1:6380"
        elsewhere = Reconciler(newer, {}, records[3])
        await asyncio.sleep(0.5)
        assert again.faults == {}, "one of another cluster has other actors"
        elsewhere._loop.cancel()
        await new.stop()
        await again.stop()
        assert cluster.actors == {}
        for record in records:
            record.close()

    asyncio.run(whole())


def test_a_control_that_cannot_write_looks_after_the_actors(tmp_path: Path) -> None:
    folder = tmp_path / "control"
    older = Mandate(folder, "cluster")
    older.take()
    younger = Mandate(folder / "run", "cluster")  # no folder
    younger.take()
    assert younger.held()
    assert older.held()
    (folder / "run").unlink()
    assert older.held(), "nobody else is named"
