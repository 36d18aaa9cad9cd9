"""Live: one question for all who watch, a slow watcher has the newest, and nothing is asked while nobody watches."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from actors.live import EARLY, MAX_SOURCES, MAX_WATCHERS, Live, Shown, Watcher
from stream.analyser import Seen
from stream.events import TracksEvent, timestamp
from stream.frame import FrameInfo
from stream.viewfinder import Look, Picture


class Actors:
    """An ingest actor for each pair of sources, and one aggregator; a frame is new each time that one is asked for."""

    def __init__(self) -> None:
        self.placement = {"a": "ingest-0", "b": "ingest-0", "c": "ingest-1"}
        self.asked: Counter[str] = Counter()
        self.looks: list[dict[str, Look]] = []
        self.frame = 0
        self.frozen = False
        self.dead: set[str] = set()
        self.slow: set[str] = set()
        self.live = Live(self.ask, lambda: self.placement, lambda: dict.fromkeys(self.placement, "aggregator-0"))

    async def ask(self, name: str, method: str, *what: Any, timeout_s: float) -> Any:
        self.asked[name] += 1
        if name in self.slow:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        if name in self.dead:
            raise ActorUnavailableError(name, None)
        [wanted] = what
        if method == "seen":
            return {i: Seen(key, event(i, key[1]), {"floor": key[1]}) for i, key in wanted.items()}
        self.looks.append(wanted)
        self.frame += not self.frozen
        frames = {i: FrameInfo(i, "s", self.frame, 0.0, 0.0, 640, 360, 0.0, 0.0) for i in wanted}
        return {i: Picture(info, b"jpeg") for i, info in frames.items() if info.key != wanted[i].after}


def event(source_id: str, index: int) -> TracksEvent:
    return TracksEvent(
        event_id="e", source_id=source_id, frame_index=index, pts_s=0, captured_at=timestamp(0), width=640, height=360, model="m",
        objects=[], stages_ms={},
    )  # fmt: skip


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


def often(watcher: Watcher, *sources: str) -> None:
    watcher.watch(sources)
    watcher.interval_s = 0.02


async def frames(watcher: Watcher, n: int) -> list[int]:
    return [(await watcher.next()).picture.info.frame_index for _ in range(n)]


def test_who_watches_the_same_shares_the_questions() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as first, actors.live.watch() as second:
            often(first, "a")
            often(second, "a")
            assert await asyncio.gather(frames(first, 3), frames(second, 3)) == [[1, 2, 3]] * 2
        assert actors.asked["ingest-0"] <= 4
        assert actors.asked["ingest-1"] == 0

    run(work())


def test_a_picture_comes_with_what_was_found_in_its_very_frame() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as watcher:
            often(watcher, "a", "b", "c")
            shown: list[Shown] = [await watcher.next() for _ in range(6)]
        for one in shown:
            assert one.seen is not None
            assert one.seen.key == one.picture.info.key
            assert one.seen.event.source_id == one.picture.info.source_id
        assert {one.picture.info.source_id for one in shown[:3]} == {"a", "b", "c"}
        assert all(len(looks) in (1, 2) for looks in actors.looks)
        assert any(looks.keys() == {"a", "b"} for looks in actors.looks), "one question for both"

    run(work())


def test_a_slow_watcher_gets_the_newest_and_nothing_piles_up() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as quick, actors.live.watch() as slow:
            often(quick, "a")
            often(slow, "a")
            seen = await frames(quick, 6)
            assert await frames(slow, 1) == [seen[-1]]
            assert not slow._newest

    run(work())


def test_nothing_is_asked_while_nobody_watches() -> None:
    async def work() -> None:
        actors, tasks = Actors(), asyncio.all_tasks()
        async with actors.live.watch() as watcher:
            await asyncio.sleep(0.05)
            assert not actors.asked
            often(watcher, "a")
            await watcher.next()
        asked = sum(actors.asked.values())
        await asyncio.sleep(0.1)
        assert sum(actors.asked.values()) == asked
        assert asyncio.all_tasks() == tasks

    run(work())


def test_who_comes_later_has_the_picture_that_is_there() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as first, actors.live.watch() as second:
            often(first, "a")
            await first.next()
            actors.frozen = True
            often(second, "a")
            assert await frames(second, 1) == [actors.frame]

    run(work())


def test_pictures_come_no_faster_than_asked_for() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as quick, actors.live.watch() as rare:
            often(quick, "a")
            often(rare, "a")
            rare.interval_s = 0.15
            for _ in range(3):
                [before] = await frames(rare, 1)
                before_s = rare._given_s["a"]
                await frames(quick, 1)
                [after] = await frames(rare, 1)
                assert after > before
                assert rare._given_s["a"] - before_s >= EARLY * rare.interval_s

    run(work())


@pytest.mark.parametrize("how", ["slow", "dead"])
def test_an_actor_that_does_not_answer_holds_no_other_up(how: str) -> None:
    async def work() -> None:
        actors = Actors()
        getattr(actors, how).add("ingest-1")
        async with actors.live.watch() as watcher:
            often(watcher, "a", "c")
            shown = [await watcher.next() for _ in range(4)]
        assert {one.picture.info.source_id for one in shown} == {"a"}

    run(work())


def test_without_the_aggregator_there_are_pictures_without_objects() -> None:
    async def work() -> None:
        actors = Actors()
        actors.dead.add("aggregator-0")
        async with actors.live.watch() as watcher:
            often(watcher, "a")
            assert (await watcher.next()).seen is None

    run(work())


def test_watchers_and_what_they_watch_are_bounded() -> None:
    async def work() -> None:
        actors = Actors()
        async with actors.live.watch() as watcher:
            with pytest.raises(ValueError, match="at most 32"):
                watcher.watch([str(i) for i in range(MAX_SOURCES + 1)])
            actors.live._watchers |= {Watcher() for _ in range(MAX_WATCHERS - 1)}
            with pytest.raises(OverflowError, match="at most 128"):
                async with actors.live.watch():
                    pass

    run(work())
