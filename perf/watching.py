"""What looking at cameras costs: the service's CPU while nobody watches, one camera is watched, and all are.

``--sources`` cameras run all the time. In each of ``--rounds`` rounds they are watched over the websocket of the live view in
turns: none, one, all, each for ``--seconds``, after two seconds to settle. Told are CPU milliseconds a second of all
processes of the service (as in ``load_test.py``; this script, which receives the pictures, is not counted), by process, and
what a watched camera costs: the median over the rounds of the difference to the turn without watchers, divided by the
number of cameras.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import websockets

from perf.service import Service, run_script, service_config
from perf.workload import Workload, options, workload
from stream.processes import Measurement, ProcessTree, measure

SETTLE_S = 2.0
WIDTH_PX, FPS = 640, 4


class Viewer:
    """Watches cameras on a thread of its own, and counts what comes."""

    def __init__(self, url: str, sources: Sequence[str]):
        self.pictures = self.bytes = 0
        self._url, self._sources = url.replace("http", "ws") + "/v1/live", list(sources)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._watch())
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _watch(self) -> None:
        async with websockets.connect(self._url) as socket:
            await socket.send("{}")
            await socket.send(json.dumps({"watch": self._sources, "width": WIDTH_PX, "fps": FPS}))
            async for message in socket:
                self.pictures += 1
                self.bytes += len(message)
                await socket.send(json.dumps({"received": self.pictures}))


@contextmanager
def watched(url: str, sources: Sequence[str]) -> Iterator[Viewer | None]:
    """Somebody watches these cameras; nobody, where there are none."""
    if not sources:
        yield None
        return
    with Viewer(url, sources) as viewer:
        yield viewer


def run(load: Workload, rounds: int, folder: Path) -> None:
    """Measure and print."""
    sinks = [{"type": "jsonl", "path": str(folder / "events.jsonl"), "events": ["counts"]}]
    config = service_config(load, [str(load.file)] * load.sources, sinks, folder)
    ids = [source["id"] for source in config["sources"]]
    turns = {"none": [], "one": ids[:1], "all": ids}
    tree = ProcessTree()
    found: dict[str, list[Measurement]] = defaultdict(list)
    with Service(config, folder, tree, ["--no-dashboard"]) as service:
        time.sleep(load.warmup_s)
        for _ in range(rounds):
            for name, sources in turns.items():
                with watched(f"http://127.0.0.1:{config['service']['port']}", sources) as viewer:
                    time.sleep(SETTLE_S)
                    before = viewer.pictures if viewer else 0
                    measured = measure(tree, load.seconds, service.check)
                    found[name].append(measured)
                    pictures = (viewer.pictures - before) / measured.wall_s if viewer else 0.0
                    size = viewer.bytes / max(viewer.pictures, 1) / 1024 if viewer else 0.0
                print(
                    f"{name:<5} {_ms(measured):7.1f} ms/s  {pictures:5.1f} pictures/s of {size:.0f} KiB  {_by_name(measured)}",
                    flush=True,
                )
    costs = {}
    for name in ("one", "all"):
        differences = [_ms(with_it) - _ms(without) for with_it, without in zip(found[name], found["none"], strict=True)]
        costs[name] = median(differences) / len(turns[name])
        print(f"a watched camera ({name} of {len(ids)}): {costs[name]:.1f} ms/s of CPU")
    if load.as_json:
        print(json.dumps({"sources": len(ids), "watched_ms_per_s": costs, "unwatched_ms_per_s": median(map(_ms, found["none"]))}))


def _ms(measured: Measurement) -> float:
    return 1000 * measured.cpu_s / measured.wall_s


def _by_name(measured: Measurement) -> str:
    costs = sorted(((1000 * cpu_s / measured.wall_s, name) for name, cpu_s in measured.by_name.items()), reverse=True)
    return ", ".join(f"{name} {ms:.0f}" for ms, name in costs[:6])


def main() -> int:
    """The command line. Exit code 1 where the service failed, 130 after Ctrl-C."""
    parser = options(__doc__, warmup_s=5)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of none, one, all (%(default)s)")
    args = parser.parse_args()
    load = workload(parser, args)

    def report(folder: Path) -> int:
        run(load, args.rounds, folder)
        return 0

    return run_script("watching", report)


if __name__ == "__main__":
    sys.exit(main())
