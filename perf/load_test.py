"""The Ray service under load: N cameras in real time, everything running as in production, on this machine.

Each camera is a file that plays at the speed of its clock, over and over (or, with ``--rtsp``, an RTSP mount of the
camera simulator of ``stream.testing``, which is not counted). ``framewatch up`` runs in a process of its own. Once every source is
analysed and ``--warmup`` seconds have passed, it is measured for ``--seconds``:

- CPU: user and system time of every process of the service (the command, Ray's raylet, GCS, dashboard and agents, Serve's
  controller and proxy, all actors), those that ended meanwhile included, from /proc. The broker is not counted.
- Frames analysed and dropped: difference of the service's own counters between two scrapes of /metrics.
- Latency, with a Kafka sink: from ``captured_at`` in the tracks event to the time at which the broker appended it
  (LogAppendTime, to the millisecond), read back afterwards. Otherwise interpolated in the service's histogram from capture
  to acknowledgement, so only as fine as its buckets.
- Attainment of the latency objective: from that histogram, which has a bound at the objective.
- Peak memory: the greatest sum of the processes' proportional set sizes (PSS), looked at every 2 s.

Sustained means that at least 99 % of the expected frames were analysed and that the objective was held.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from perf.broker import BROKER_TOOL, LoadTopics, own_broker
from perf.films import film
from perf.processes import MemoryPeak
from perf.service import Service, run_script, service_config
from perf.workload import ROOT, SLO, Result, Workload, options, percentiles_ms, workload
from stream.processes import ProcessTree, measure
from stream.scrape import attainment, histogram, interpolated_ms
from stream.testing.embedded_broker import free_port

SIMULATOR_S = 30.0
DECODE_MODES = ("auto", "full", "fast", "key")


def main() -> int:
    """The command line. Exit code 1 where the service failed, 130 after Ctrl-C."""
    parser = options(__doc__, warmup_s=10)
    parser.add_argument("--sink", choices=("kafka", "jsonl", "none"), help="where events go (kafka where there is a broker)")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a running broker (default: Apache Kafka of ../shared/kafka)")
    parser.add_argument("--rtsp", action="store_true", help="cameras over RTSP instead of files")
    parser.add_argument("--ingest-actors", type=int, default=1, metavar="N", help="actors that share the cameras (1)")
    parser.add_argument("--decode", choices=DECODE_MODES, default="auto", help="of the sources (auto)")
    parser.add_argument(
        "--spread", action="store_true", help="key frames do not come at once: films begin with GOPs of other lengths"
    )
    parser.add_argument("--no-dashboard", action="store_true", help="without Ray's dashboard")
    args = parser.parse_args()
    if args.rtsp and args.spread:
        parser.error("--spread is of files, not of --rtsp")
    load = workload(parser, args)

    def report(folder: Path) -> int:
        run(load, args, folder).report()
        return 0

    return run_script("load_test", report)


def run(load: Workload, args: argparse.Namespace, folder: Path) -> Result:
    """Start everything, measure, stop everything."""
    with ExitStack() as running:
        ignored: list[int] = []
        sink, topics = args.sink, None
        bootstrap = args.bootstrap
        if sink in (None, "kafka") and bootstrap is None and BROKER_TOOL.exists():
            bootstrap, pid = running.enter_context(own_broker(folder / "broker"))
            ignored.append(pid)
        if sink == "kafka" and bootstrap is None:
            raise ChildProcessError(f"--sink kafka needs --bootstrap: there is no {BROKER_TOOL.name} in ../shared/kafka")
        sinks: list[dict[str, Any]] = []
        if bootstrap and sink in (None, "kafka"):
            topics = running.enter_context(LoadTopics(bootstrap))
            sinks = [{"type": "kafka", "bootstrap_servers": [bootstrap], "topics": topics.names}]
        elif sink != "none":
            sinks = [{"type": "jsonl", "path": str(folder / "events.jsonl")}]
        uris = [str(load.file)] * load.sources
        if args.spread:
            skipped = [number / load.sources for number in range(load.sources)]
            uris = [str(film(load.file, 1, part, folder / f"{part:.3f}{load.file.suffix}")) for part in skipped]
        if args.rtsp:
            uris, pid = running.enter_context(simulator(load))
            ignored.append(pid)
        tree = ProcessTree(ignored=ignored)
        config = service_config(load, uris, sinks, folder, args.decode)
        config["service"]["ingest_actors"] = args.ingest_actors
        arguments = ["--no-dashboard"] if args.no_dashboard else []
        service = running.enter_context(Service(config, folder, tree, arguments))
        return measured(load, service, tree, topics)


def measured(load: Workload, service: Service, tree: ProcessTree, topics: LoadTopics | None) -> Result:
    """Let the service warm up, then measure it."""
    peak = MemoryPeak(tree)
    time.sleep(load.warmup_s)
    before, began = service.scrape(), time.time()

    def watch() -> None:
        service.check()
        peak.update()

    used = measure(tree, load.seconds, watch)
    ended, after = time.time(), service.scrape()

    def grown(name: str, **labels: str) -> float:
        return after.total(f"framewatch_{name}", **labels) - before.total(f"framewatch_{name}", **labels)

    frames = "framewatch_frames_total"
    drops = after.by(frames, "reason", outcome="dropped")
    drops.subtract(before.by(frames, "reason", outcome="dropped"))
    # The scrapes lie a little outside the measurement: count what happened between them, for as long as it lasted.
    share = used.wall_s / (after.at_s - before.at_s)
    analysed = grown("frames_total", outcome="analysed")
    buckets = histogram(before, after)
    latency_ms, latency_of = interpolated_ms(buckets), "capture to acknowledgement, from histogram buckets"
    if topics is not None:
        latency_ms = percentiles_ms(topics.latencies_s(began, ended))
        latency_of = "capture to the broker's log, exact"
    return Result(
        kind="service",
        workload=load,
        wall_s=used.wall_s,
        cpu_s=used.cpu_s,
        frames_analysed=round(analysed * share),
        drops={reason: round(n) for reason, n in sorted(drops.items()) if n > 0 and reason != "sampled"},
        latency_ms=latency_ms,
        latency_of=latency_of,
        slo_attainment=attainment(buckets, SLO.latency_ms / 1000),
        peak_memory_mib=peak.mib,
        cpu_s_by_process=used.by_name,
        mean_batch=grown("batch_size_sum") / max(1.0, grown("batch_size_count")),
    )


@contextmanager
def simulator(load: Workload) -> Iterator[tuple[list[str], int]]:
    """The RTSP camera simulator in a process of its own; gives the cameras' addresses and its pid."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "stream.testing.rtsp_server",
        str(load.file),
        "--mounts",
        str(load.sources),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith(b"ready"):
            raise ChildProcessError("the RTSP simulator does not start")
        yield [f"rtsp://127.0.0.1:{port}/cam{i}" for i in range(load.sources)], process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SIMULATOR_S)
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
