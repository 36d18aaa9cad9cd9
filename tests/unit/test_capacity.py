"""What ``framewatch capacity`` decides: how far to search, what is sustained, what limits, what is refused."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stream.agreement import Agreement, Reading, compare, read
from stream.agreement import Clip as Part
from stream.capacity.check import check, judge, told
from stream.capacity.limit import limiting
from stream.capacity.plan import Clip, Plan, choose_clip, plan
from stream.capacity.report import Report, cells, line
from stream.capacity.search import Found, search
from stream.capacity.step import REST, STAGES, Lane, Step, step_of
from stream.config import KafkaSinkConfig, PipelineConfig, SourceConfig
from stream.config_file import parse_config
from stream.detectors.registry import load_detector
from stream.errors import ConfigError, DetectionsLost, SourceUnreadable
from stream.processes import Measurement
from stream.scrape import Scrape
from tests.support.media import make_video
from tests.support.models import write_onnx, write_spec

# -- the search


@pytest.mark.parametrize(
    ("bears", "most", "best", "failed", "tried"),
    [
        (0, 100, 0, 1, [1]),
        (1, 100, 1, 2, [1, 2]),
        (2, 100, 2, 3, [1, 2, 4, 3]),
        (14, 100, 14, 15, [1, 2, 4, 8, 16, 12, 14, 15]),
        (5, 100, 5, 6, [1, 2, 4, 8, 6, 5]),
        (50, 2, 2, None, [1, 2]),
        (50, 6, 6, None, [1, 2, 4, 6]),
        (1, 1, 1, None, [1]),
    ],
)
def test_the_search_doubles_and_then_halves(bears: int, most: int, best: int, failed: int | None, tried: list[int]) -> None:
    asked: list[int] = []

    def sustains(number: int) -> bool:
        asked.append(number)
        return number <= bears

    assert search(sustains, most) == Found(best, failed, complete=True)
    assert asked == tried


@pytest.mark.parametrize(("steps", "found"), [(0, Found(0, None, False)), (3, Found(4, None, False)), (5, Found(8, 16, False))])
def test_the_search_ends_when_time_is_up(steps: int, found: Found) -> None:
    asked: list[int] = []

    def sustains(number: int) -> bool | None:
        asked.append(number)
        return None if len(asked) > steps else number < 10

    assert search(sustains, 1000) == found


# -- a step


def model(folder: Path) -> str:
    path = write_onnx(folder / "blocks.onnx")
    write_spec(path)
    return str(path)


def config(**settings: object) -> PipelineConfig:
    source = {"id": "hall", "uri": "clip.mp4", "fps": 5}
    given = {"detectors": {"people": {"model": "simulated-person", "threads": 1}}, "sources": [source]}
    return parse_config(given | settings, "test", Path("/somewhere"))


def planned(**settings: object) -> Plan:
    return plan(config(**settings), Clip(Path("/clip.mp4"), "clip.mp4", 10.0, 6.0), Path("/folder"), own_sinks=True)


def frames(source: str, outcome: str, reason: str = "") -> tuple[str, frozenset[tuple[str, str]]]:
    return "framewatch_frames_total", frozenset({("source", source), ("outcome", outcome), ("reason", reason), ("actor", "a")})


def bucket(bound: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return "framewatch_end_to_end_seconds_bucket", frozenset({("le", bound), ("source", "step1-000")})


def cpu(stage: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return "framewatch_cpu_seconds_total", frozenset({("stage", stage)})


USED = Measurement(10.0, 8.0, {"IngestActor": 4.0, "AggregatorActor": 1.0, "framewatch:detector-people": 2.0, "raylet": 1.0})
BEFORE = {frames("step1-000", "analysed"): 20.0, cpu("decode"): 1.0}
AFTER = {
    frames("step1-000", "analysed"): 70.0,
    frames("step1-000", "dropped", "sampled"): 500.0,
    bucket("0.25"): 40.0,
    bucket("0.5"): 50.0,
    bucket("+Inf"): 50.0,
    cpu("decode"): 4.0,
    cpu("scale"): 0.5,
    cpu("track"): 0.5,
    cpu("emit"): 0.25,
}


def measured(
    sources: int = 1, after: dict[tuple[str, frozenset[tuple[str, str]]], float] | None = None, **settings: object
) -> Step:
    given = planned(**settings)
    scrapes = Scrape(100.0, BEFORE), Scrape(110.0, AFTER | (after or {}))
    return step_of(given, given.copies(sources, 1), scrapes, USED, 9.0, 2)


def test_a_step_that_is_sustained() -> None:
    step = measured()
    assert (step.analysed, step.expected) == (50, 49)  # 5 fps for 10 s, but for one that may lie across the edge
    assert step.sustained
    assert step.attainment == 1.0
    assert step.cores_used == pytest.approx(0.8)
    stages = {"decode": 3.0, "scale": 0.5, "detect": 2.0, "track": 0.5, "emit": 0.25, REST: 1.75}
    assert step.stages_s == pytest.approx(stages)
    assert sum(map(step.share, STAGES)) == pytest.approx(1)
    assert step.dropped == {}


def test_too_few_frames_are_not_sustained() -> None:
    assert not measured(sources=2).sustained
    stale = measured(after={frames("step1-000", "analysed"): 60.0, frames("step1-000", "dropped", "stale"): 10.0})
    assert not stale.sustained
    assert stale.dropped == {"stale": 10}
    assert line(stale).startswith("too many: 81.6% analysed")
    assert line(stale).endswith("0.80 of 2 cores; lost: 10 stale")


def test_late_frames_are_not_sustained() -> None:
    assert measured(after={bucket("0.5"): 49.0}).sustained  # one of 50
    step = measured(after={bucket("0.5"): 45.0})
    assert step.attainment == pytest.approx(0.9)
    assert not step.sustained
    assert measured(after={bucket("0.5"): 45.0}, slo={"objective": 0.85}).sustained


def test_an_overtaken_deadline_counts_at_the_configs_own_latency() -> None:
    assert measured(slo={"latency_ms": 250}).attainment == pytest.approx(0.8)


def test_gated_frames_are_served_and_key_frames_alone_are_not() -> None:
    source = {"id": "hall", "uri": "clip.mp4", "fps": 5, "gate": "on"}
    asleep = {frames("step1-000", "analysed"): 20.0, frames("step1-000", "dropped", "gated"): 34.0}
    empty = {bucket("0.25"): 0.0, bucket("0.5"): 0.0, bucket("+Inf"): 0.0}
    assert not measured(after=asleep | empty).sustained  # without a gate, 49 frames are expected
    gated = planned(sources=[source])
    scrapes = Scrape(100.0, BEFORE), Scrape(110.0, AFTER | asleep | empty)
    step = step_of(gated, gated.copies(1, 1), scrapes, USED, 9.0, 2)
    assert (step.analysed, step.gated, step.served) == (0, 34, 1.0)
    assert step.sustained
    keys = asleep | {frames("step1-000", "dropped", "key_frames_only"): 6.0}
    step = step_of(gated, gated.copies(1, 1), (scrapes[0], Scrape(110.0, AFTER | keys | empty)), USED, 9.0, 2)
    assert step.served == pytest.approx(34 / 40)
    assert not step.sustained


# -- the stage that limits


def busy(machine: float, cpu_s: float, lanes: Sequence[Lane] = (), **stages_s: float) -> Step:
    stages = dict.fromkeys(STAGES, 0.0) | stages_s
    return replace(measured(), wall_s=10.0, machine_s=10 * machine, cpu_s=cpu_s, stages_s=stages, cores=2, lanes=lanes)


def test_with_all_cores_busy_the_costliest_stage_limits() -> None:
    full = Lane("track", "1 aggregator", 0.95, 1.0, "service.aggregators: 2")
    limit = limiting(busy(1.98, 19.0, [full], decode=15.0, detect=3.0))
    assert (limit.stage, round(limit.share, 2), limit.why, limit.advice) == ("decode", 0.79, "all 2 cores are busy", "")


def test_other_programs_are_named() -> None:
    limit = limiting(busy(2.0, 8.0, detect=6.0))
    assert limit.stage == "detect"
    assert limit.why == "all 2 cores are busy, 1.2 of them not for the service"
    assert "without them" in limit.advice


def test_with_cores_free_a_full_thread_limits() -> None:
    lanes = [Lane("track", "1 aggregator", 0.5, 1.0, "a"), Lane("detect", "1 replica", 1.8, 2.0, "more replicas")]
    limit = limiting(busy(1.4, 13.0, lanes, decode=8.0, detect=4.0))
    assert (limit.stage, limit.advice) == ("detect", "more replicas would help")
    assert limit.why == "1 replica: 90% of what can be used, while 0.6 cores are free"


def test_where_load_is_shed_cores_need_not_be_busy_all_the_time() -> None:
    step = replace(busy(1.4, 13.0, decode=8.0, detect=4.0), dropped={"key_frames_only": 92, "stale": 8, "undecodable": 5})
    limit = limiting(step)
    assert (limit.stage, limit.why) == ("decode", "1.4 of 2 cores are busy, and too few when frames come at once: 100 were shed")
    assert "in step" in limit.advice
    assert limiting(replace(step, machine_s=8.0)).why == ""  # something else holds them up


def test_where_nothing_is_exhausted_no_reason_is_made_up() -> None:
    limit = limiting(busy(0.4, 4.0, [Lane("track", "1 aggregator", 0.1, 1.0, "a")], decode=3.0))
    assert (limit.stage, limit.why) == ("decode", "")


@pytest.mark.parametrize(("service", "track", "ingest"), [({}, 0.1, 0.05), ({"ingest_actors": 2, "aggregators": 2}, 0.05, 0.025)])
def test_lanes_are_those_of_the_config(service: dict[str, int], track: float, ingest: float) -> None:
    lanes = {lane.stage: lane for lane in measured(service=service).lanes}
    assert lanes["track"].used == pytest.approx(track)
    assert lanes[REST].used == pytest.approx(ingest)
    assert (lanes["detect"].used, lanes["detect"].room) == (pytest.approx(0.2), 1.0)
    assert lanes["decode"].used == pytest.approx(0.35)


# -- the report


def report(found: Found, *steps: Step) -> Report:
    return Report(planned(), [], steps, found)


def test_the_closing_line() -> None:
    good = replace(busy(1.0, 9.0, decode=7.0), sources=14, latency_ms={"p50": 100.0, "p95": 200.0, "p99": 212.4})
    over = replace(busy(2.0, 19.0, decode=14.8), sources=15)
    result = "this machine sustains 14 sources of clip.mp4 at 5 fps (p99 212 ms of 500 ms)"
    ending = "; decode limits: 78 % of the CPU (all 2 cores are busy)"
    assert report(Found(14, 15, True), good, over).closing() == result + ending
    most = report(Found(14, None, True), good)
    assert most.closing() == result.replace("sustains", "sustains at least") + "; decode costs most: 78 % of the CPU"
    assert most.remarks() == ["no more were tried: --max-sources"]
    assert "does not sustain one source" in report(Found(0, 1, True), replace(over, sources=1)).closing()
    assert report(Found(0, None, False)).closing() == "nothing was measured: time was up"


def test_everything_is_in_the_object() -> None:
    step = measured()
    found = report(Found(1, None, True), step)
    figures = found.to_dict()
    assert (figures["sources"], figures["sustained"], figures["steps"][0]["served"]) == (1, True, 1.0)
    assert sum(figures["steps"][0]["cpu_share_by_stage"].values()) == pytest.approx(1, abs=0.001)
    assert cells(step)[-1] == "sustained"
    assert found.table().row_count == 1


# -- the plan


def test_copies_have_the_settings_and_the_clip_and_nothing_else() -> None:
    sources = [
        {"id": "a", "uri": "rtsp://camera/a", "fps": 5, "lines": [{"name": "door", "points": [[0, 0], [1, 1]]}]},
        {"id": "b", "uri": "kafka://frames"},
    ]
    kafka = {"type": "kafka", "bootstrap_servers": ["broker:9092"]}
    rule = {"name": "gone", "type": "source_offline"}
    service = {"port": 8000, "ingest_actors": {"min": 1, "max": 3}}
    given = config(sources=sources, sinks=[kafka], alerts=[rule], service=service)
    clip = Clip(Path("/clip.mp4"), "clip.mp4", 10.0, 6.0)
    made = plan(given, clip, Path("/folder"), own_sinks=True)
    one, two, three = made.copies(3, step=2)
    assert [source.id for source in (one, two, three)] == ["step2-000", "step2-001", "step2-002"]
    assert {source.uri for source in (one, two)} == {"/clip.mp4"}
    assert (one.live, one.loop, one.gate, one.fps, one.lines[0].name) == (True, True, "on", 5, "door")
    assert (two.decode, two.gate, two.fps) == ("full", "off", None)
    assert three.lines == one.lines
    assert (made.fps(one), made.fps(two)) == (5, 10)
    assert made.config.sources == made.config.alerts == []
    assert made.config.service.port not in (0, 8000)
    assert (made.config.service.ingest_actors.min, made.config.service.state_dir) == (3, Path("/folder/state"))
    assert made.config.sinks[0].type == "jsonl"
    [sink] = plan(given, clip, Path("/folder"), own_sinks=False).config.sinks
    assert isinstance(sink, KafkaSinkConfig)


def test_a_config_without_sources_has_no_settings() -> None:
    with pytest.raises(ConfigError, match="none whose settings"):
        planned(sources=[])


def test_which_clip_is_played(tmp_path: Path) -> None:
    video = make_video(tmp_path / "clip.mp4", 20)
    filmed: list[str] = []

    def film(shot: object, folder: Path) -> bool:
        filmed.append(str(shot))
        folder.mkdir()
        make_video(folder / "video.mp4", 10)
        return True

    def chosen(uri: str, file: Path | None = None) -> Clip | None:
        return choose_clip(config(sources=[{"id": "a", "uri": uri}]), file, tmp_path / f"film{len(filmed)}", film)

    assert chosen("rtsp://camera/a", video) == Clip(video, "clip.mp4", 10.0, 2.0)
    assert chosen(str(video)) == Clip(video, "clip.mp4", 10.0, 2.0)
    assert filmed == []
    assert (chosen("simulate://corridor?people=3") or Clip.of(video)).name == "a simulated corridor"
    assert (chosen("rtsp://camera/a") or Clip.of(video)).name == "a simulated plaza"
    assert "people=(3, 3)" in filmed[0]
    with pytest.raises(SourceUnreadable, match="not a video"):
        chosen("rtsp://camera/a", Path(__file__))


# -- the refusal


def reading(*objects: int | None, gated: int = 0) -> Reading:
    made = Reading({i: n for i, n in enumerate(objects) if n is not None})
    made.dropped["gated"] = gated
    return made


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (reading(0, 2, 2, 0), 1.0),
        (reading(0, 1, 2, 0), 0.75),
        (reading(0, None, 2, None), 0.5),  # left out: nothing is known of them
        (reading(0, None, 2, None, gated=1), 0.5),  # behind the gate: said to be 0, then 2
        (reading(0, 2, None, 0, gated=1), 1.0),
    ],
)
def test_agreement_with_full_decoding(other: Reading, share: float) -> None:
    assert compare(reading(0, 2, 2, 0), other).share == share


def test_a_setting_that_loses_detections_is_refused() -> None:
    source = SourceConfig(id="a", uri="clip.mp4", decode="key", gate="on")
    with pytest.raises(DetectionsLost, match=r"^decode: key, gate: on loses detections: only 98\.0% of 100 sampled frames"):
        judge(source, Agreement(100, 99, 98, 98, 50))
    judge(source, Agreement(100, 99, 99, 99, 50))
    assert "this says little" in told(source, Agreement(100, 100, 100, 100, 0))


def test_settings_are_compared_on_the_clip(tmp_path: Path) -> None:
    """Key frames come once a second, five frames a second are asked for."""
    video = make_video(tmp_path / "clip.mp4", 40, gop=10)
    detectors = {"blocks": {"model": model(tmp_path), "confidence": 0.3, "threads": 1}}
    lines: list[str] = []

    def checked(*modes: str) -> list[tuple[SourceConfig, Agreement]]:
        sources = [{"id": f"camera-{i}", "uri": str(video), "fps": 5, "decode": mode} for i, mode in enumerate(modes)]
        given = plan(config(detectors=detectors, sources=sources), Clip.of(video), tmp_path, own_sinks=True)
        return check(given, threading.Event(), lines.append)

    assert checked("full") == []
    [(source, found)] = checked("fast", "fast")
    assert (source.decode, found.share, found.sampled) == ("fast", 1.0, 20)
    assert lines == [told(source, found)]
    with pytest.raises(DetectionsLost, match=r"decode: key loses detections: only 20\.0% of 20 sampled frames"):
        checked("auto", "key")


def test_only_the_first_part_of_a_clip_is_read(tmp_path: Path) -> None:
    video = make_video(tmp_path / "clip.mp4", 200, gop=10)
    given = config(detectors={"blocks": {"model": model(tmp_path), "threads": 1}})
    detector = load_detector("blocks", given.detectors["blocks"], 0.1)
    source = SourceConfig(id="a", uri=str(video), fps=5, decode="full", realtime=True)
    found = read(source, detector, 0.5, 2.0, Part(until_s=2.0))
    detector.close()
    assert len(found.objects) == 10
    assert found.media_s == pytest.approx(13, abs=0.2)
