"""The aggregator: events of frames, duplicates, and what survives a crash at any moment."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream.aggregate import Aggregator
from stream.analyser import RECENT
from stream.boot import boot_id
from stream.checkpoint import Checkpoint
from stream.config import PipelineConfig
from stream.config_file import parse_config
from stream.deliver import Message, SourceFinished, SourceState
from stream.detections import Detections
from stream.events import AlertEvent, CountsEvent, Event, HealthEvent, TracksEvent
from stream.frame import DetectedBatch, FrameInfo
from stream.metrics import Metrics
from stream.testing import ManualClock, MemorySink

pytestmark = pytest.mark.compute

T0 = 1_700_000_000.0
CLASSES = {"people": ("person", "dog")}
ZONE = [{"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}]
CROWDS = [{"name": f"crowd-{i}", "type": "crowd", "zone": f"{i}/all", "above": 1, "for_s": 0.5} for i in "ak"]


def config(**changes: Any) -> PipelineConfig:
    return parse_config(
        {
            "detectors": {"people": {"model": "m.onnx", "confidence": 0.5}},
            "sources": [{"id": name, "uri": f"{name}.mp4", "zones": ZONE} for name in ("a", "b")],
            "alerts": [{"name": "crowd", "type": "crowd", "zone": "a/all", "above": 1, "for_s": 0.5}],
            "counting": {"enter_s": 0, "leave_s": 0.2},
        }
        | changes,
        "test",
        Path(),
    )


def frame(source_id: str, index: int, session: str = "") -> FrameInfo:
    return FrameInfo(source_id, session, index, index / 10, T0 + index / 10, 640, 480, captured_s=999.0, decoded_s=999.1)


def people(n: int, confidence: float = 0.9) -> Detections:
    return Detections.of([[100 * i, 100, 100 * i + 50, 300] for i in range(n)], [confidence] * n, [0] * n)


def batch(*rows: tuple[FrameInfo, Detections]) -> DetectedBatch:
    frames, detections = zip(*rows, strict=True)
    return DetectedBatch("people", "people@sha256:0", frames, detections, 999.5, boot_id(), T0)


def aggregator(
    sink: MemorySink, folder: Path | None = None, clock: ManualClock | None = None, run: str = "run", **changes: Any
) -> Aggregator:
    checkpoint = Checkpoint(folder / "checkpoint.json") if folder else None
    return Aggregator(config(**changes), CLASSES, sink, clock or ManualClock(T0), Metrics(), checkpoint, run=run)


def send(to: Aggregator, *messages: Message, start: int = 1, expected: str | None = None) -> None:
    for number, message in enumerate(messages, start):
        assert to.process("sender", number, message, expected).accepted


def send_slowly(
    to: Aggregator, clock: ManualClock, messages: Sequence[Message], start: int = 1, expected: str | None = None
) -> int:
    """A message each tenth of a second; the last one that is safe."""
    safe = 0
    for number, message in enumerate(messages, start):
        clock.advance(0.1)
        safe = to.process("sender", number, message, expected).safe
    return safe


def test_a_frame_becomes_a_tracks_event() -> None:
    sink = MemorySink()
    send(aggregator(sink), batch((frame("a", 7), people(2))))
    [event] = sink.of(TracksEvent)
    assert (event.source_id, event.frame_index, event.pts_s, event.width) == ("a", 7, 0.7, 640)
    assert [(o.track_id, o.class_, o.zones) for o in event.objects] == [(1, "person", ["all"]), (2, "person", ["all"])]
    assert event.objects[1].xyxy == (100, 100, 150, 300)
    assert event.stages_ms["detect"] >= 0


def test_faint_objects_keep_tracks_but_are_not_reported() -> None:
    sink = MemorySink()
    rows = [(frame("a", i), people(1, 0.3 if i == 2 else 0.9)) for i in range(4)]
    send(aggregator(sink), *(batch(row) for row in rows))
    assert [[o.track_id for o in event.objects] for event in sink.of(TracksEvent)] == [[1], [1], [], [1]]


def test_a_frame_seen_before_is_ignored_and_a_new_session_is_not() -> None:
    sink = MemorySink()
    live = [{"id": "a", "uri": "rtsp://h/a"}]
    to = aggregator(sink, sources=live, alerts=[])
    send(
        to,
        batch((frame("a", 5, "s1"), people(1))),
        batch((frame("a", 5, "s1"), people(1))),
        batch((frame("a", 4, "s1"), people(1))),
    )
    send(to, batch((frame("a", 0, "s2"), people(1))), start=4)
    assert [event.frame_index for event in sink.of(TracksEvent)] == [5, 0]


def test_a_number_seen_before_is_ignored() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    message = SourceState("a", False, "stalled", T0)
    send(to, message)
    assert to.process("sender", 1, message, None).accepted
    assert len(sink.of(HealthEvent)) == 1


def test_another_incarnation_is_refused() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    receipt = to.process("sender", 1, batch((frame("a", 0), people(1))), "another")
    assert not receipt.accepted
    assert receipt.incarnation == to.incarnation
    assert sink.events == []


def test_frames_are_safe_only_when_their_events_are(tmp_path: Path) -> None:
    sink, clock = MemorySink(hold=True), ManualClock(T0)
    to = aggregator(sink, tmp_path, clock)
    send(to, batch((frame("a", 0), people(1))))
    clock.advance(2)
    to.tick()  # takes a snapshot, whose events are not safe yet
    assert to.progress("sender").safe == 0
    sink.release()
    assert to.progress("sender").safe == 1


def test_finish_closes_the_open_window() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    send(to, batch((frame("a", 0), people(1))))
    assert sink.of(CountsEvent) == []
    send(to, SourceFinished("a"), start=2)
    assert [(c.source_id, c.zone, c.entered) for c in sink.of(CountsEvent)] == [("a", "all", 1)]


def messages() -> list[Message]:
    """Ten seconds of two sources; a crowd in ``a`` from 2 s to 6 s."""
    rows: list[Message] = []
    for i in range(100):
        crowd = people(3) if 20 <= i < 60 else people(1)
        rows.append(batch((frame("a", i), crowd), (frame("b", i), people(i % 3))))
        if i == 50:
            rows.append(SourceState("b", False, "stalled", T0 + 5))
    return [*rows, SourceFinished("a"), SourceFinished("b")]


def by_id(events: list[Event]) -> dict[str, dict[str, Any]]:
    return {event.event_id: event.model_dump(mode="json", exclude={"stages_ms"}) for event in events}


@pytest.mark.parametrize("crash_at", [1, 19, 25, 26, 27, 40, 51, 52, 61, 70, 99, 102])
def test_a_crash_at_any_message_changes_no_event(tmp_path: Path, crash_at: int) -> None:
    whole = MemorySink()
    send(aggregator(whole), *messages())

    sink, clock = MemorySink(), ManualClock(T0)
    first = aggregator(sink, tmp_path, clock)
    safe = send_slowly(first, clock, messages()[:crash_at])
    second = aggregator(sink, tmp_path, clock)  # the first is gone, with all after its checkpoint
    assert not second.process("sender", crash_at + 1, messages()[-1], first.incarnation).accepted
    send_slowly(second, clock, messages()[safe:], safe + 1, second.incarnation)
    assert by_id(sink.events) == by_id(whole.events)
    raised = {alert.alert_id for alert in sink.of(AlertEvent) if alert.state == "raised"}
    assert len(raised) == 1


class DiesOnAlert(MemorySink):
    """The process ends between the checkpoint and the alert's way to the sink."""

    def write(self, event: Event, *args: Any, **options: Any) -> None:
        if isinstance(event, AlertEvent):
            raise SystemError("killed")
        super().write(event, *args, **options)


def test_an_alert_cut_off_on_its_way_out_is_sent_after_the_restart(tmp_path: Path) -> None:
    whole = MemorySink()
    send(aggregator(whole), *messages())
    wanted = next(alert for alert in whole.of(AlertEvent) if alert.state == "raised")

    with pytest.raises(SystemError):
        send(aggregator(DiesOnAlert(), tmp_path), *messages())
    sink = MemorySink()
    aggregator(sink, tmp_path)
    assert sink.of(AlertEvent) == [wanted]


def test_an_alert_waits_for_no_sink_and_what_was_not_safe_before_it_is_sent_after_a_crash(tmp_path: Path) -> None:
    whole = MemorySink()
    send(aggregator(whole), *messages())

    held = MemorySink(hold=True)  # the broker is away, and nothing is on the spool yet
    first = aggregator(held, tmp_path)
    for number, message in enumerate(messages()[:40], 1):
        receipt = first.process("sender", number, message, None)
    assert [alert.state for alert in held.of(AlertEvent)] == ["raised"]
    raised_at = receipt.safe
    assert 20 < raised_at < 40, "the alert's message is not the last that need not come again"
    sink = MemorySink()
    second = aggregator(sink, tmp_path)  # the first is gone, with all that its sink held
    assert by_id(sink.events).items() >= by_id(held.of(TracksEvent)[: 2 * raised_at]).items()
    assert by_id(sink.events).items() >= by_id(held.of(AlertEvent)).items()
    send(second, *messages()[raised_at:], start=raised_at + 1)
    assert by_id(sink.events) == by_id(whole.events)
    assert len({event.event_id for event in sink.events}) == len(sink.events), "something was sent twice"


def test_events_that_a_sink_does_not_take_to_the_end_are_written_at_the_next_start(tmp_path: Path) -> None:
    held = MemorySink(hold=True)
    first = aggregator(held, tmp_path)
    send(first, *messages())
    first.close(0)
    assert first.sink_fault == "events could not be written in time"
    sink = MemorySink()
    aggregator(sink, tmp_path)
    assert by_id(sink.events) == by_id(held.events)


LEFT = [{"name": "left", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]


def test_tracks_go_on_after_a_restart_with_other_zones(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    to = aggregator(MemorySink(), tmp_path, clock)
    send(to, batch((frame("a", 4), people(2))), batch((frame("a", 5), people(1))))
    to.close()
    sink = MemorySink()
    again = aggregator(sink, tmp_path, clock, sources=[{"id": "a", "uri": "a.mp4", "zones": LEFT}], alerts=[])
    send(again, batch((frame("a", 5), people(1))), batch((frame("a", 6), people(3))), start=3)
    (event,) = sink.of(TracksEvent)
    assert [(one.track_id, one.zones) for one in event.objects] == [(1, ["left"]), (2, ["left"]), (3, ["left"])]


def test_another_detector_starts_afresh_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    to = aggregator(MemorySink(), tmp_path, clock)
    send(to, batch((frame("a", 5), people(1))))
    to.close()
    sink = MemorySink()
    again = aggregator(sink, tmp_path, clock, tracker={"lost_s": 1})
    send(again, batch((frame("a", 5), people(1))), start=2)
    assert len(sink.of(TracksEvent)) == 1


def test_zones_and_rules_change_while_frames_come() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    crowd = [batch((frame("a", i), people(3))) for i in range(20)]
    send(to, *crowd[:10])
    assert [alert.state for alert in sink.of(AlertEvent)] == ["raised"]
    after = config(sources=[{"id": "a", "uri": "a.mp4", "zones": LEFT}], alerts=[CROWDS[0] | {"zone": "a/left"}])
    to.set_sources(after.sources, after.alerts)
    assert [(alert.rule, alert.state) for alert in sink.of(AlertEvent)] == [("crowd", "raised"), ("crowd", "cleared")]
    send(to, *crowd[10:], start=11)
    assert [(alert.rule, alert.state) for alert in sink.of(AlertEvent)][2:] == [("crowd-a", "raised")]
    tracks = [[one.track_id for one in event.objects] for event in sink.of(TracksEvent)]
    assert tracks == [[1, 2, 3]] * 20, "the tracks went on"
    assert {zone for event in sink.of(TracksEvent)[10:] for one in event.objects for zone in one.zones} == {"left"}


def test_a_source_that_is_removed_takes_its_alert_along() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    send(to, *(batch((frame("a", i), people(3))) for i in range(10)))
    to.set_sources([], [])
    to.set_sources(config().sources, config().alerts)
    assert [alert.state for alert in sink.of(AlertEvent)] == ["raised", "cleared"]


SITE = {"name": "site", "type": "crowd", "zones": ["a/all", "b/all"], "above": 4}
WATCHED = [CROWDS[0], SITE, {"name": "gone", "type": "source_offline"}, {"name": "covered", "type": "source_tampered"}]


def cameras(host: str) -> list[dict[str, Any]]:
    return [{"id": name, "uri": f"rtsp://{host}/{name}", "zones": ZONE, "gate": "off"} for name in "ab"]


def states(sink: MemorySink) -> dict[str, str]:
    """By rule, what became of its alerts."""
    told: dict[str, str] = {}
    for alert in sink.of(AlertEvent):
        told[alert.rule] = f"{told.get(alert.rule, '')} {alert.state}".strip()
    return told


@pytest.mark.parametrize("restarted", [False, True])
def test_alerts_of_a_camera_end_with_its_address(tmp_path: Path, restarted: bool) -> None:
    """The new one may never answer, and what the old one showed is not to count for it."""
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, tmp_path, clock, sources=cameras("old"), alerts=WATCHED)
    frames = [batch((frame("a", i, "s"), people(5)), (frame("b", i, "s"), people(0))) for i in range(10)]
    wrong = [SourceState("a", True, "", T0, "black"), SourceState("a", False, "lost", T0 + 1, "black")]
    send(to, *frames, *wrong)
    assert states(sink) == dict.fromkeys(["crowd-a", "site", "covered", "gone"], "raised")
    after = config(sources=cameras("new"), alerts=WATCHED)
    if restarted:
        to.close()
        to = aggregator(sink, tmp_path, clock, sources=cameras("new"), alerts=WATCHED)
    to.set_sources(after.sources, after.alerts)
    assert states(sink) == dict.fromkeys(["crowd-a", "site", "covered", "gone"], "raised cleared")
    assert to.news(None).active == frozenset()
    clock.advance(60)
    send(to, batch((replace(frame("b", 1, "s2"), captured_at=T0 + 60), people(1))), start=13)
    assert states(sink)["site"] == "raised cleared", "one in b, and nothing is known of a"
    send(to, SourceState("a", False, "refused", T0 + 61, "frozen"), start=14)
    assert states(sink)["gone"] == states(sink)["covered"] == "raised cleared raised"
    later = batch(*((replace(frame("a", i, "s2"), captured_at=T0 + 62 + i / 10), people(5)) for i in range(10)))
    send(to, later, start=15)
    assert states(sink)["crowd-a"] == states(sink)["site"] == "raised cleared raised"


def test_an_alert_of_a_file_that_is_replaced_is_raised_by_the_next_one_too() -> None:
    """Its frames are older than the moment at which it was replaced."""
    sink = MemorySink()
    to = aggregator(sink, clock=ManualClock(T0 + 86_400))
    send(to, *(batch((frame("a", i), people(3))) for i in range(10)))
    after = config(sources=[{"id": "a", "uri": "other.mp4", "zones": ZONE}])
    to.set_sources(after.sources, after.alerts)
    send(to, *(batch((frame("a", i), people(3))) for i in range(10)), start=11)
    assert states(sink) == {"crowd": "raised cleared raised"}


CAMERA = [{"id": "a", "uri": "rtsp://h/a", "gate": "off", "zones": ZONE}]
INTRUSION = [{"name": "in", "type": "intrusion", "zone": "a/all"}]


def seen_at(index: int, at_s: float, n: int = 1, session: str = "s") -> DetectedBatch:
    return batch((replace(frame("a", index, session), captured_at=T0 + at_s), people(n)))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_camera_whose_clock_is_put_right_goes_on_at_once(tmp_path: Path, restarted: bool) -> None:
    sink, clock = MemorySink(), ManualClock(T0 + 3600)
    to = aggregator(sink, tmp_path, clock, sources=CAMERA, alerts=INTRUSION)
    send(to, *(seen_at(i, 3600 + i / 10) for i in range(30)))
    assert states(sink) == {"in": "raised"}
    if restarted:
        to.close()
        to = aggregator(sink, tmp_path, clock, run="another run", sources=CAMERA, alerts=INTRUSION)
    before = len(counts_of(sink))
    send(to, *(seen_at(i, i / 10, 0, "t") for i in range(30, 60)), start=31)
    assert states(sink) == {"in": "raised cleared"}, "nobody is there from 3 s on, by the right clock"
    send(to, *(seen_at(i, i / 10, int(i > 60), "t") for i in range(60, 80)), start=61)
    assert states(sink) == {"in": "raised cleared raised"}
    counts = counts_of(sink)[before:]
    assert [round(event.window_start.timestamp() - T0) for event in counts] == [3602, *range(3, 7)]
    assert [event.entered for event in counts[1:]] == [0, 0, 0, 1]
    assert len({event.event_id for event in sink.events}) == len(sink.events)
    tracks = [one.track_id for event in sink.of(TracksEvent) for one in event.objects]
    assert set(tracks) == {1, 2}, "no id is given twice"


@pytest.mark.parametrize(
    ("back_s", "live", "anew"), [(0.9, False, False), (1.5, False, True), (9.9, True, False), (10.5, True, True)]
)
def test_small_steps_back_count_as_standing_still(back_s: float, live: bool, anew: bool) -> None:
    sink = MemorySink()
    to = aggregator(sink, sources=CAMERA if live else [{"id": "a", "uri": "a.mp4", "zones": ZONE}], alerts=[])
    send(to, *(seen_at(i, i / 10) for i in range(200)), seen_at(200, 19.9 - back_s))
    assert ([one.track_id for one in sink.of(TracksEvent)[-1].objects] == [2]) is anew


def test_frames_that_the_gate_held_do_not_turn_time_back() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a", "zones": ZONE}], alerts=[])
    send(to, live_frame(1, clock, 0.0))
    for _ in range(80):
        clock.advance(0.5)
        to.tick()
    send(to, live_frame(3, clock, 1.0, held_s=39.0), live_frame(5, clock, 2.0, held_s=38.0), start=2)
    assert [one.track_id for event in sink.of(TracksEvent) for one in event.objects] == [1, 1, 1]


def twice() -> list[Message]:
    """A clip of 6 s that is sent a second time 2 s later, stamped as if it had ended then: time goes back by 4 s."""
    crowd = [3 if 20 <= i < 40 else 1 for i in range(60)]
    return [seen_at(i + 60 * turn, 2 * turn + i / 10, n, "") for turn in range(2) for i, n in enumerate(crowd)]


@pytest.mark.parametrize("crash_at", [0, 25, 59, 60, 61, 62, 85, 100, 119])
def test_a_clip_that_is_sent_twice_counts_twice_also_over_a_crash(tmp_path: Path, crash_at: int) -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, tmp_path, clock)
    safe = send_slowly(to, clock, twice()[:crash_at])
    to = aggregator(sink, tmp_path, clock)
    again = twice()[max(0, safe - 10) :]  # some of it has been seen
    send_slowly(to, clock, again, safe + 1)
    send(to, SourceFinished("a"), start=1000)
    whole = MemorySink()
    send(aggregator(whole), *twice(), SourceFinished("a"))
    assert by_id(sink.events) == by_id(whole.events)
    raised, cleared, *others = whole.of(AlertEvent)
    assert [(event.state, event.at - event.raised_at) for event in (raised, cleared)] == [
        (event.state, event.at - event.raised_at) for event in others
    ]
    assert (others[0].at - raised.at).total_seconds() == 2
    assert [event.frames for event in counts_of(whole)] == [10] * 12
    assert len({event.event_id for event in whole.events}) == len(whole.events)


def test_alerts_of_what_went_during_an_outage_are_cleared_after_it(tmp_path: Path) -> None:
    """Rules and sources may have been changed while the aggregator was away."""
    offline = {"name": "gone", "type": "source_offline"}
    live = [{"id": name, "uri": f"rtsp://h/{name}", "zones": ZONE} for name in "ab"]
    sink = MemorySink()
    to = aggregator(sink, tmp_path, sources=live, alerts=[offline, CROWDS[0]])
    send(to, SourceState("b", False, "stalled", T0), *(batch((frame("a", i), people(3))) for i in range(10)))
    assert [alert.rule for alert in sink.of(AlertEvent)] == ["gone", "crowd-a"]
    again = MemorySink()
    aggregator(again, tmp_path, sources=live[:1], alerts=[offline])
    cleared = {alert.rule: alert for alert in again.of(AlertEvent) if alert.state == "cleared"}
    assert {rule: alert.alert_id for rule, alert in cleared.items()} == {a.rule: a.alert_id for a in sink.of(AlertEvent)}
    third = MemorySink()
    aggregator(third, tmp_path, sources=live[:1], alerts=[offline])
    assert {event.event_id for event in third.of(AlertEvent)} <= {event.event_id for event in again.of(AlertEvent)}


def test_another_run_of_the_service_reads_files_again_and_resumes_the_rest(tmp_path: Path) -> None:
    sources = [{"id": "a", "uri": "a.mp4", "zones": ZONE}, {"id": "k", "uri": "kafka://k", "zones": ZONE}]
    changes = {"sources": sources, "kafka": {"bootstrap_servers": ["h:1"]}, "alerts": CROWDS}
    crowd = [batch((frame("a", i), people(3)), (frame("k", i), people(3))) for i in range(20)]
    first = MemorySink()
    to = aggregator(first, tmp_path, **changes)
    send(to, *crowd)
    to.close()
    second = MemorySink()
    again = aggregator(second, tmp_path, run="another run", **changes)
    for number, message in enumerate(crowd, 1):
        again.process("another sender", number, message, None)
    of_a = {event.event_id for event in first.of(TracksEvent) if event.source_id == "a"}
    assert {event.event_id for event in second.of(TracksEvent)} == of_a
    assert [alert.source_id for alert in first.of(AlertEvent)] == ["a", "k"]
    assert [alert.source_id for alert in second.of(AlertEvent)] == ["a"]


def test_a_rule_over_several_files_raises_again_in_another_run(tmp_path: Path) -> None:
    site = [{"name": "site", "type": "crowd", "zones": ["a/all", "b/all"], "above": 3, "for_s": 0.5}]
    crowd = [batch((frame("a", i), people(n)), (frame("b", i), people(n))) for i, n in enumerate([2] * 10 + [0] * 10)]
    told = []
    for run in ("run", "another run"):
        sink = MemorySink()
        to = aggregator(sink, tmp_path, run=run, alerts=site)
        for number, message in enumerate(crowd, 1):
            to.process(run, number, message, None)
        to.close()
        told.append([(alert.event_id, alert.state) for alert in sink.of(AlertEvent)])
    assert [state for _, state in told[0]] == ["raised", "cleared"]
    assert told[1] == told[0]


def test_an_alert_over_a_camera_and_a_file_is_cleared_in_another_run(tmp_path: Path) -> None:
    sources = [{"id": "a", "uri": "rtsp://h/a", "zones": ZONE}, {"id": "b", "uri": "b.mp4", "zones": ZONE}]
    changes = {"sources": sources, "alerts": [{"name": "site", "type": "crowd", "zones": ["a/all", "b/all"], "above": 3}]}
    first, second = MemorySink(), MemorySink()
    to = aggregator(first, tmp_path, **changes)
    send(to, batch((frame("a", 0, "s1"), people(2)), (frame("b", 0), people(2))))
    to.close()
    again = aggregator(second, tmp_path, run="another run", **changes)
    again.process("another sender", 1, batch((frame("a", 20, "s2"), people(0))), None)
    [raised], [cleared] = first.of(AlertEvent), second.of(AlertEvent)
    assert (raised.state, cleared.state, cleared.alert_id) == ("raised", "cleared", raised.alert_id)


def test_a_removed_source_is_forgotten() -> None:
    sink, metrics = MemorySink(hold=True), Metrics()
    to = Aggregator(config(), CLASSES, sink, ManualClock(T0), metrics)
    send(to, batch((frame("a", 0), people(1))))
    assert b'source="a"' in metrics.expose()
    to.set_sources([source for source in config().sources if source.id == "b"])
    send(to, batch((frame("a", 1), people(1))), start=2)
    sink.release()
    to.tick()
    assert len(sink.of(TracksEvent)) == 1
    assert set(to.tallies()) == {"b"}
    assert b'source="a"' not in metrics.expose()
    assert b"framewatch_frames_removed_total 1.0" in metrics.expose()


def test_late_frames_make_one_breach_and_one_recovery() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    live = [{"id": "a", "uri": "rtsp://h/a"}]
    to = aggregator(sink, clock=clock, sources=live, alerts=[], slo={"latency_ms": 500, "objective": 0.9, "window_s": 20})
    number = 0
    for second in range(120):
        late_s = 2.0 if second < 30 else 0.1
        for _ in range(5):
            number += 1
            clock.advance(0.2)
            now_s = clock.monotonic()
            info = FrameInfo("a", "s", number, number / 5, T0 + number / 5, 640, 480, now_s - late_s, now_s - late_s)
            to.process("sender", number, DetectedBatch("people", "m", (info,), (people(1),), now_s, boot_id(), T0), None)
        to.tick()
    changes = [(event.source_id, event.state) for event in sink.of(HealthEvent)]
    assert changes.count(("a", "slo_breached")) == changes.count(("a", "slo_recovered")) == 1
    assert ("*", "slo_breached") in changes
    assert changes[-1][1] == "slo_recovered"


class Sheds(MemorySink):
    """Gives up every second event that it may, as a full one does: it is never acknowledged."""

    def write(self, event: Event, on_acknowledged: Callable[[], None] | None = None, **options: Any) -> None:
        given_up = options.get("droppable") and len(self.of(TracksEvent)) % 2 == 0
        super().write(event, None if given_up else on_acknowledged, **options)


@pytest.mark.parametrize(("sink", "good"), [(MemorySink(hold=True), 0.0), (Sheds(), 0.5)])
def test_frames_whose_events_do_not_arrive_are_late(sink: MemorySink, good: float) -> None:
    clock, metrics = ManualClock(T0), Metrics()
    sources = [{"id": "a", "uri": "rtsp://h/a", "gate": "off"}]
    to = Aggregator(config(sources=sources, alerts=[], slo={"latency_ms": 500}), CLASSES, sink, clock, metrics)
    for number in range(100):
        clock.advance(0.2)
        to.process("sender", number + 1, live_frame(number, clock, 0.2 * (number + 1)), None)
        to.tick()
    assert [(event.source_id, event.state) for event in sink.of(HealthEvent)] == [("*", "slo_breached"), ("a", "slo_breached")]
    clock.advance(4)
    to.tick()
    counts, before = to.slo_counts()["a"], sink.of(HealthEvent)
    assert counts.frames == pytest.approx(92, abs=4), "the newest may still come"
    assert counts.good == pytest.approx(good * 100, abs=8)
    assert to.latencies(60)["a"][2] >= 5
    clock.advance(60)
    to.tick()
    late = [line for line in metrics.expose().decode().splitlines() if line.startswith("framewatch_slo_frames_late_total")]
    sink.release()  # the broker is back
    to.tick()
    assert late == ['framewatch_slo_frames_late_total{source="a"} ' + str(100 * (1 - good))]
    assert late[0] in metrics.expose().decode(), "not counted again"
    assert 'framewatch_slo_frames_total{source="a"} 100.0' in metrics.expose().decode()
    assert sink.of(HealthEvent) == before


def test_a_slow_broker_is_told_with_its_true_latency() -> None:
    sink, clock = MemorySink(hold=True), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a"}], alerts=[], slo={"latency_ms": 500})
    for number in range(12):
        to.process("sender", number + 1, live_frame(number, clock, clock.monotonic() - 1000), None)
        for _ in range(4):
            clock.advance(1)
            to.tick()
        sink.release()
        to.tick()
    counts = to.slo_counts()["a"]
    assert (counts.frames, counts.good) == (12, 0)
    assert to.latencies(60)["a"] == pytest.approx((4, 4, 4), rel=0.2)


def counts_of(sink: MemorySink) -> list[CountsEvent]:
    return [event for event in sink.of(CountsEvent) if event.zone == "all"]


def live_frame(index: int, clock: ManualClock, at_s: float, held_s: float = 0.0) -> DetectedBatch:
    """A frame of a camera that was captured ``at_s`` after the start."""
    now_s, captured_s = clock.monotonic(), 1000.0 + at_s
    info = FrameInfo("a", "s", index, at_s, T0 + at_s, 640, 480, captured_s, now_s, now_s, held_s)
    return DetectedBatch("people", "m", (info,), (people(index % 2),), now_s, boot_id(), T0)


@pytest.mark.parametrize(("gate", "waits"), [("on", True), ("off", False)])
def test_time_waits_for_frames_that_a_gate_may_hold(gate: str, waits: bool) -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a", "gate": gate, "zones": ZONE}], alerts=[])
    send(to, SourceState("a", True, "frames arrive", T0), live_frame(0, clock, 0.0))
    clock.advance(6)
    to.tick()
    assert (not counts_of(sink)) is waits
    send(to, live_frame(1, clock, 4.5, held_s=1.0), live_frame(3, clock, 4.7, held_s=0.9), start=3)  # held, and older than the tick
    clock.advance(20)
    to.tick()
    [entered] = [event.window_start for event in counts_of(sink) if event.entered]
    assert (entered.timestamp() == T0 + 4) is waits
    assert {event.occupancy.max for event in counts_of(sink) if event.occupancy and event.window_start.timestamp() < T0 + 4} == {0}


def test_the_windows_of_a_still_scene_say_that_nobody_is_there() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a", "zones": ZONE}], alerts=[])
    for number in range(10):  # a look every four seconds, as from a closed gate
        to.process("sender", number + 1, live_frame(2 * number, clock, 4.0 * number), None)
        for _ in range(8):
            clock.advance(0.5)
            to.tick()
    starts = [round(event.window_start.timestamp() - T0) for event in counts_of(sink)]
    assert starts == list(range(36))
    assert all(event.occupancy and event.occupancy.max == 0 for event in counts_of(sink))


def test_a_lost_camera_is_not_waited_for() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a", "zones": ZONE}], alerts=[])
    send(to, live_frame(1, clock, 0.0), SourceState("a", False, "stalled", T0 + 1))
    clock.advance(6)
    to.tick()
    assert counts_of(sink)


def test_frames_that_the_gate_held_are_not_held_against_the_objective() -> None:
    sink, clock = MemorySink(), ManualClock(T0)
    to = aggregator(sink, clock=clock, sources=[{"id": "a", "uri": "rtsp://h/a"}], alerts=[], slo={"latency_ms": 500})
    for number in range(50):
        clock.advance(0.2)
        to.process("sender", number + 1, live_frame(2 * number, clock, 0.2 * number - 3, held_s=3.1), None)
        to.tick()
    assert sink.of(HealthEvent) == []
    assert to.slo_attainment() == {}
    assert sink.of(TracksEvent)[-1].stages_ms["gate"] == 3100


def test_the_events_of_the_last_frames_are_at_hand() -> None:
    sink = MemorySink()
    to = aggregator(sink)
    send(to, *(batch((frame("a", i, "s"), people(2))) for i in range(3 * RECENT)))
    seen = to.seen({"a": ("s", 3 * RECENT - 2), "b": None})["a"]
    assert (seen.event, seen.occupancy) == (sink.of(TracksEvent)[-2], {"all": 2})
    newest = to.seen({"a": None})["a"]
    assert newest.event == sink.of(TracksEvent)[-1]
    assert to.seen({"a": ("s", 3 * RECENT - RECENT - 1), "b": ("s", 1)}) == {}
    assert to.seen({"a": ("another", 3 * RECENT - 1), "unknown": None}) == {}


def test_the_tally_says_what_was_found_and_what_holds() -> None:
    to = aggregator(MemorySink())
    send(to, *(batch((frame("a", i), people(2))) for i in (0, 1, 2, 2)))
    tally = to.tallies()["a"]
    assert (tally.frames, tally.objects, tally.duplicates, tally.occupancy) == (3, 6, 1, {"all": 2})
    assert tally.stages_ms["detect"] == pytest.approx(3 * to.seen({"a": None})["a"].event.stages_ms["detect"])
    send(to, batch((frame("a", 3), people(2))), start=5)
    assert tally.frames == 3, "a copy"


def test_alerts_are_told_until_they_are_confirmed_and_after_a_crash(tmp_path: Path) -> None:
    sink = MemorySink()
    to = aggregator(sink, tmp_path)
    send(to, *(batch((frame("a", i), people(3))) for i in range(20)), SourceState("b", False, "stalled", T0))
    news = to.news(None)
    assert [alert.state for alert in news.alerts] == ["raised"]
    assert [event.state for event in news.health] == ["offline"]
    assert news.active == {news.alerts[0].alert_id}

    again = aggregator(sink, tmp_path)  # nobody has closed the first one
    told = again.news(news.confirm)  # of another incarnation
    assert {alert.event_id for alert in told.alerts} == {news.alerts[0].event_id}
    after = again.news(told.confirm)
    assert (after.alerts, after.active) == ((), news.active)
    again.close()
    assert aggregator(sink, tmp_path).news(None).alerts == (), "confirmed before the checkpoint"
