"""The load scripts' own arithmetic, and the contract of what they print."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from perf.compare import judge, workload_name
from perf.films import film
from perf.memory import Curve
from perf.overload import Overload, jain, settled_s
from perf.workload import percentiles_ms
from stream.processes import ProcessTree, idle_s, measure
from stream.scrape import Scrape, attainment, histogram, interpolated_ms
from tests.support.media import make_video

ROOT = Path(__file__).resolve().parents[2]
BURN = "import time\nt = time.process_time()\nwhile time.process_time() - t < {seconds}: pass\n"


def child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def limit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "perf" / "limit.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_limit_prints_the_figures_as_one_object(shared: Path) -> None:
    video = shared / "data" / "videos" / "one-by-one-person-detection.mp4"
    done = limit("--sources", "1", "--file", video, "--fps", "5", "--seconds", "3", "--warmup", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 < figures["cpu_s_per_source_s"] < 1
    assert figures["cpu_s_per_source_s"] == pytest.approx(figures["cpu_s"] / figures["seconds"], rel=0.01)
    assert figures["frames_expected"] == 15
    assert 12 <= figures["frames_analysed"] + sum(figures["drops"].values()) <= 17
    assert set(figures["latency_ms"]) == {"p50", "p95", "p99"}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"] <= figures["latency_ms"]["p99"]
    assert figures["peak_memory_mib"] > 20


def test_limit_compares_modes_of_decoding(shared: Path) -> None:
    video = shared / "data" / "videos" / "one-by-one-person-detection.mp4"
    few = ("--sources", "1", "--seconds", "1.5", "--warmup", "0.2", "--json")
    done = limit("--file", video, "--decode", "full,fast", "--gate", *few)
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])
    assert ratios["full"] == [1.0]
    assert 0.1 < ratios["fast"][0] < 10


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--file", "nowhere.mp4"], "there is no file nowhere.mp4"),
        (["--file", __file__, "--decode", "full,half"], "there is no half"),
        (["--file", __file__, "--sources", "0"], "--sources must be over 0"),
        (["--file", __file__, "--model", __file__], "is not a video"),
    ],
)
def test_limit_says_what_is_wrong(arguments: list[str], complaint: str) -> None:
    done = limit(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_cpu_of_children_is_counted_while_they_run_and_after_they_ended() -> None:
    short, long = child(BURN.format(seconds=0.4)), child(BURN.format(seconds=60))
    try:
        tree = ProcessTree(ignored=frozenset(ProcessTree().processes()) - {short.pid, long.pid})
        used = measure(tree, 2.5, lambda: reap(short))
        assert short.returncode == 0
        running = used.by_name[Path(sys.executable).name]
        assert running > 0.2
        assert used.cpu_s == pytest.approx(running + 0.4, abs=0.2)  # the ended one is in our own children's time
    finally:
        long.kill()
        long.wait()


def reap(process: subprocess.Popen[bytes]) -> None:
    process.poll()


def test_cpu_of_ignored_children_is_not_counted() -> None:
    burning = child(BURN.format(seconds=60))
    try:
        tree = ProcessTree(ignored=[burning.pid])
        before = tree.cpu_s()
        time.sleep(0.5)
        assert tree.cpu_s() - before < 0.1
        assert burning.pid not in tree.processes()
        assert burning.pid in ProcessTree().processes()
    finally:
        burning.kill()
        burning.wait()


def test_what_is_left_is_killed_with_its_children() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(seconds=60)!r}])"
    parent = child(nested)
    others = frozenset(ProcessTree().processes()) - {parent.pid}
    tree = ProcessTree(ignored=others)
    while len(tree.processes()) < 2:
        time.sleep(0.02)
    pids = list(tree.processes())
    assert len(tree.end()) == 2
    parent.wait()
    time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in state(pid)]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_idle_time_is_no_more_than_there_is() -> None:
    began_s, before = time.monotonic(), idle_s()
    time.sleep(0.3)
    assert 0 <= idle_s() - before <= (os.cpu_count() or 1) * (time.monotonic() - began_s) + 0.1


def test_memory_of_this_process() -> None:
    memory = ProcessTree(own=True).memory()[os.getpid()]
    assert 10 < memory.pss <= memory.rss


def scrape(samples: dict[str, float]) -> Scrape:
    buckets = {("framewatch_end_to_end_seconds_bucket", frozenset({("le", le)})): n for le, n in samples.items()}
    return Scrape(0.0, buckets)


def test_percentiles_and_attainment_between_two_scrapes() -> None:
    buckets = histogram(scrape({"0.1": 50, "0.5": 50, "+Inf": 50}), scrape({"0.1": 140, "0.5": 149, "+Inf": 150}))
    assert [count for _, count in buckets] == [90, 99, 100]
    assert attainment(buckets, 0.5) == pytest.approx(0.99)
    assert attainment(buckets, 0.4) is None
    latency_ms = interpolated_ms(buckets)
    assert latency_ms["p50"] == pytest.approx(100 * 50 / 90)
    assert latency_ms["p95"] == pytest.approx(100 + 400 * 5 / 9)
    assert latency_ms["p99"] == pytest.approx(500)


def test_without_frames_there_are_no_percentiles() -> None:
    buckets = histogram(scrape({"0.5": 3, "+Inf": 3}), scrape({"0.5": 3, "+Inf": 3}))
    assert attainment(buckets, 0.5) is None
    assert interpolated_ms(buckets) == percentiles_ms([]) == {"p50": None, "p95": None, "p99": None}


def test_exact_percentiles_in_milliseconds() -> None:
    assert percentiles_ms([i / 1000 for i in range(101)]) == pytest.approx({"p50": 50, "p95": 95, "p99": 99})


def test_scrape_sums_by_label() -> None:
    frames = "framewatch_frames_total"
    found = Scrape(
        0.0,
        {
            (frames, frozenset({("source", "a"), ("outcome", "dropped"), ("reason", "stale")})): 2,
            (frames, frozenset({("source", "b"), ("outcome", "dropped"), ("reason", "stale")})): 3,
            (frames, frozenset({("source", "b"), ("outcome", "analysed"), ("reason", "")})): 7,
        },
    )
    assert found.by(frames, "reason", outcome="dropped") == {"stale": 5}
    assert found.total(frames, source="b") == 10


def test_growth_is_judged_after_settling() -> None:
    curve = Curve("a", [5.0 * i for i in range(60)], [], [])
    curve.rss = [200.0 if at_s >= 120 else at_s for at_s in curve.at_s]
    assert curve.growth(120) == pytest.approx((0.0, 0.0), abs=1e-9)
    curve.rss = [100 + at_s / 60 * 2 for at_s in curve.at_s]
    slope, percent = curve.growth(120) or (0.0, 0.0)
    assert slope == pytest.approx(2)
    assert 3 < percent < 5
    assert curve.growth(280) is None


def test_a_ratio_is_held_against_the_last_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = tmp_path / "baseline.json"
    name = workload_name({"sources": 8, "file": "a.mp4", "fps": 5.0}, "full", no_dashboard=False)
    assert judge(name, 0.9, baseline, save=False) == 0  # nothing to compare with yet
    assert judge(name, 0.9, baseline, save=True) == 0
    assert json.loads(baseline.read_text()) == {"8 x a.mp4 at 5 frames/s, decode full": 0.9}
    assert [judge(name, ratio, baseline, save=False) for ratio in (1.0, 0.82, 0.80)] == [0, 0, 1]
    assert "REGRESSION" in capsys.readouterr().out
    others = [({"sources": 8, "file": "a.mp4", "fps": fps}, decode, True) for fps in (5.0, None) for decode in ("full", "fast")]
    assert [judge(workload_name(*other), 0.1, baseline, save=False) for other in others] == [0, 0, 0, 0]
    assert len({workload_name(*other) for other in others}) == 4


def test_the_committed_baseline_holds_ratios() -> None:
    ratios = json.loads((ROOT / "perf" / "baseline.json").read_text())
    assert ratios
    assert all(0 < ratio < 1.5 for ratio in ratios.values())


@pytest.mark.parametrize(("shares", "index"), [([3, 3, 3], 1.0), ([5, 0, 0, 0, 0], 0.2), ([2, 1], 0.9), ([], 0.0), ([0, 0], 0.0)])
def test_jains_index(shares: list[float], index: float) -> None:
    assert jain(shares) == pytest.approx(index)


def overload(p99_ms: float | None, shares: tuple[float, float, float], memory_mib: tuple[float, float], settled: bool) -> Overload:
    index, least, most = shares
    after = [(0.4, 1.0), (0.97, 1.0), (0.99, 0.98), (0.99, 1.0), (1.0, 0.995)] if settled else [(0.9, 1.0)] * 20
    return Overload(10, 5, 17.0, 200.0, p99_ms, 0.99, {}, {}, index, least, most, memory_mib, settled_s(after), after)


def test_bounds_of_the_overload() -> None:
    good = overload(480.0, (0.97, 1.2, 2.1), (1000, 1050), settled=True)
    assert good.faults() == []
    assert good.recovery_s == 3.0  # good from the fourth second on
    bad = overload(None, (0.9, 0.0, 2.1), (1000, 1150), settled=False)
    assert len(bad.faults()) == 5


@pytest.mark.parametrize("skipped", [0.0, 0.5])
def test_films_of_the_overload_go_on_and_are_out_of_step(tmp_path: Path, skipped: float) -> None:
    clip = make_video(tmp_path / "clip.mp4", 60, gop=20)  # 10 fps
    with av.open(str(film(clip, 15, skipped, tmp_path / "film.mp4"))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        at_s = [float((packet.pts or 0) * packet.time_base) for packet in packets]
        keys_s = [at for at, packet in zip(at_s, packets, strict=True) if packet.is_keyframe]
        assert len(packets) == len(list(av.open(str(tmp_path / "film.mp4")).decode(video=0)))
    assert at_s == pytest.approx([i / 10 for i in range(180 - round(skipped * 19))])
    first_s = (20 - round(skipped * 19)) / 10
    assert keys_s == pytest.approx([0.0, *(first_s + 2 * i for i in range(8))])
