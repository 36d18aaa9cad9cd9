"""Intake: with real codecs, the same frames are analysed whatever is decoded for them."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream.allowance import Allowance
from stream.config import SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.detections import Detections
from stream.effort import Choice, Effort, Level
from stream.frame import FrameInfo, Packet, Ticket, Uint8Array
from stream.gate import Gate, Presence
from stream.intake import MAX_MISSING, Intake, IntakeTally, Outcomes
from stream.sources.file import FileSource
from stream.testing.clock import ManualClock
from tests.support.media import make_video

pytestmark = pytest.mark.compute


@dataclass
class Taken:
    """What came out of one file."""

    frames: list[tuple[int, float]] = field(default_factory=list)
    pictures: list[Uint8Array] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    tally: IntakeTally = field(default_factory=IntakeTally)
    level: str = ""
    scaled: int = 0

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Taken)
        same = len(self.pictures) == len(other.pictures) and all(map(np.array_equal, self.pictures, other.pictures))
        return self.frames == other.frames and same


def take(
    path: Path,
    *,
    gate: Gate | None = None,
    damage: int | None = None,
    effort: Effort | None = None,
    late: Callable[[float], bool] | None = None,
    line_too_long: bool = False,
    turn: AbstractContextManager[object] | None = None,
    **settings: object,
) -> Taken:
    config = SourceConfig(id="cam", uri=str(path), **settings)  # type: ignore[arg-type]
    clock, taken = ManualClock(), Taken()
    effort = effort or Effort(config, gated=gate is not None)

    def dropped(reason: str, frames: int) -> None:
        taken.dropped[reason] += frames

    def hopeless(ticket: Ticket) -> bool:
        return late is not None and late(ticket.pts_s or 0.0)

    def scale(decoded: DecodedFrame) -> Uint8Array:
        taken.scaled += 1
        return decoded.frame.to_ndarray(format="bgr24")

    with FileSource(config.model_copy(update={"realtime": False}), clock) as source:
        outcomes = Outcomes(taken.tally, dropped, lambda: True, hopeless, lambda _: line_too_long, turn or nullcontext())
        intake = Intake(config, source, scale, effort, gate, clock, outcomes)
        for number, packet in enumerate(source.packets()):
            assert isinstance(packet, Packet)
            if number == damage:
                packet = replace(packet, data=_without_times(packet))
            for sampled in intake.frames(packet):
                taken.frames.append((sampled.decoded.frame_index, sampled.decoded.pts_s))
                taken.pictures.append(sampled.image)
                taken.held_s.append(sampled.held_s)
        list(intake.flush())
    taken.level = effort.choice.level
    return taken


def _without_times(packet: Packet) -> object:
    packet.data.pts = packet.data.dts = None
    return packet.data


@pytest.mark.parametrize("fps", [0.7, 2, 3, 7, None])
@pytest.mark.parametrize(
    ("gop", "b_frames", "options"),
    [
        (10, 0, {}),
        (25, 0, {}),
        (250, 0, {}),
        (10, 3, {}),
        (10, 3, {"x264-params": "b-pyramid=normal:ref=4"}),
        (10, 3, {"x264-params": "open-gop=1"}),
        (1, 0, {}),
    ],
)
def test_fast_gives_the_frames_that_full_gives_to_the_bit(
    tmp_path: Path, gop: int, b_frames: int, options: dict[str, str], fps: float | None
) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=gop, b_frames=b_frames, options=options)
    full, fast = take(path, fps=fps, decode="full"), take(path, fps=fps, decode="fast")
    assert fast == full
    assert fast.tally.frames == full.tally.frames == 60
    assert fast.dropped == full.dropped
    assert fast.tally.decoded <= full.tally.decoded
    assert fast.level == "fast"


@pytest.mark.parametrize("fps", [0.7, 2, 3])
def test_a_stream_that_refreshes_its_pictures_bit_by_bit_is_decoded_in_full(tmp_path: Path, fps: float) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=20, options={"x264-params": "intra-refresh=1"})
    full, fast = take(path, fps=fps, decode="full"), take(path, fps=fps, decode="fast")
    assert fast == full
    assert fast.level == "full"


class Turn:
    """Is asked for, and given once ``granted``; counts."""

    def __init__(self) -> None:
        self.asked, self.granted, self.taken = threading.Event(), threading.Event(), 0

    def __enter__(self) -> None:
        self.asked.set()
        assert self.granted.wait(30)
        self.taken += 1

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.mark.parametrize("decode", ["full", "fast", "key"])
def test_nothing_is_decoded_out_of_turn(tmp_path: Path, decode: str) -> None:
    path = make_video(tmp_path / "clip.mp4", 25, gop=5)
    turn, found = Turn(), list[Taken]()
    thread = threading.Thread(target=lambda: found.append(take(path, fps=5, decode=decode, turn=turn)))
    thread.start()
    assert turn.asked.wait(30)
    assert not found
    turn.granted.set()
    thread.join()
    assert found[0] == take(path, fps=5, decode=decode)
    assert turn.taken == found[0].tally.decoded


def test_packets_behind_the_last_analysed_frame_of_a_gop_are_not_decoded(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 100, gop=25)
    taken = take(path, fps=2, decode="fast")  # numbers 0, 5, 10, 15, 20 of 0..24
    assert taken.tally.decoded == 25 + 3 * 21  # the first second shows that key frames are whole pictures
    assert len(taken.frames) == 20


def test_frames_that_no_other_refers_to_are_left_out(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=60, b_frames=3, options={"x264-params": "b-pyramid=none"})
    full, fast = take(path, fps=2.5, decode="full"), take(path, fps=2.5, decode="fast")  # every fourth frame
    assert fast == full
    assert fast.tally.decode_cpu_s < full.tally.decode_cpu_s


def test_key_frames_only_keep_their_numbers_and_times(tmp_path: Path) -> None:
    for b_frames in (0, 3):
        path = make_video(tmp_path / f"clip{b_frames}.mp4", 60, gop=10, b_frames=b_frames)
        full, key = take(path, decode="full"), take(path, fps=5, decode="key")
        assert [index for index, _ in key.frames] == [0, 10, 20, 30, 40, 50]
        assert key.frames == [full.frames[index] for index, _ in key.frames]
        assert all(np.array_equal(key.pictures[i], full.pictures[10 * i]) for i in range(6))
        assert key.tally.decoded == 6
        assert key.dropped == {"sampled": 30, "key_frames_only": 24}
        assert key.tally.frames == 60


def test_key_frames_are_sampled_too(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=10)
    assert [index for index, _ in take(path, fps=0.5, decode="key").frames] == [0, 20, 40]


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("damage", [0, 13, 39])
def test_where_times_are_missing_everything_is_decoded_up_to_a_key_frame_that_has_them(
    tmp_path: Path, damage: int, b_frames: int
) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=10, b_frames=b_frames)
    taken = take(path, fps=5, decode="fast", damage=damage)
    assert taken.level == "fast"
    assert len(taken.frames) in range(28, 32)
    assert [index for index, _ in taken.frames] == sorted({index for index, _ in taken.frames})
    assert taken.tally.frames == 60


def test_a_bare_elementary_stream_is_decoded_in_full(shared: Path) -> None:
    path = shared / "data/hostile/openh264/Static.264"
    full, fast = take(path, decode="full"), take(path, decode="fast")
    assert fast == full
    assert fast.level == "full"


def test_pictures_that_do_not_come_out_of_their_own_packets_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decode, before = make_video(tmp_path / "clip.mp4", 60, gop=10), Decoder.decode, []

    def decode_fields(decoder: Decoder, packet: Packet, ticket: Ticket | None = None, *, skippable: bool = False) -> object:
        before.append(ticket)  # the picture belongs to the packet before, as where two fields make one
        frames = decode(decoder, packet, ticket, skippable=skippable)
        return [replace(frame, ticket=before[-2]) if len(before) > 1 and frame.ticket.planned else frame for frame in frames]

    monkeypatch.setattr(Decoder, "decode", decode_fields)
    taken = take(path, fps=5, decode="fast")
    assert taken.level == "full"
    assert taken.dropped["undecodable"] <= MAX_MISSING + 1
    assert len(taken.frames) > 15


def test_damage_is_counted_and_the_rest_goes_on(shared: Path) -> None:
    path = shared / "data/hostile/made/zeroed_blocks.mp4"
    taken = take(path, decode="fast")
    assert taken.dropped["undecodable"] >= 6
    assert taken.dropped["undecodable"] + len(taken.frames) >= 60
    assert MAX_MISSING < 6


class Moody(Effort):
    """Changes its mind as it is told."""

    def __init__(self, levels: list[Level]):
        super().__init__(SourceConfig(id="cam", uri="clip.mp4", decode="fast"))
        self._levels = levels

    @property
    def choice(self) -> Choice:
        return self._fallback or Choice(self._levels[0], "told so")

    def key(self, pts_s: float) -> None:
        if len(self._levels) > 1:
            self._levels.pop(0)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_level_may_change_at_any_key_frame(tmp_path: Path, b_frames: int, seed: int) -> None:
    path = make_video(tmp_path / "clip.mp4", 120, gop=10, b_frames=b_frames)
    levels: list[Level] = random.Random(seed).choices(["fast", "key"], k=14)
    full, mixed = take(path, decode="full"), take(path, fps=5, effort=Moody(["fast", *levels]))
    indices = [index for index, _ in mixed.frames]
    assert indices == sorted(set(indices))
    assert all(np.array_equal(picture, full.pictures[i]) for i, picture in zip(indices, mixed.pictures, strict=True))
    assert set(range(0, 120, 10)) <= set(indices)
    assert mixed.dropped.total() + len(indices) == 120
    assert mixed.level != "full"


@pytest.mark.parametrize("seed", range(8))
def test_lost_and_damaged_packets_stop_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = make_video(tmp_path / "clip.mp4", 150, gop=rng.choice([5, 10, 30]), b_frames=rng.choice([0, 3]), moves_from=seed * 10)
    config = SourceConfig(id="cam", uri=str(path), fps=5, realtime=True)
    watched, clock, dropped, indices = gate(), ManualClock(), Counter[str](), []
    tally, effort = IntakeTally(), Effort(config, gated=True)
    with FileSource(config.model_copy(update={"realtime": False}), clock) as source:
        outcomes = Outcomes(tally, lambda reason, frames: dropped.update({reason: frames}), lambda: True)
        intake = Intake(config, source, lambda one: one.frame.to_ndarray(format="bgr24"), effort, watched, clock, outcomes)
        for packet in source.packets():
            assert isinstance(packet, Packet)
            if rng.random() < 0.1:
                continue
            if rng.random() < 0.1 and packet.data.size > 40:
                packet.data.update(bytes(packet.data)[:20] + rng.randbytes(packet.data.size - 20))
            indices += [sampled.decoded.frame_index for sampled in intake.frames(packet)]
        indices += [sampled.decoded.frame_index for sampled in intake.flush()]
    assert indices == sorted(set(indices))
    assert len(indices) > 10
    assert len(indices) + dropped.total() >= 0.8 * tally.frames


# -- too late


def late_from_2_to_4(pts_s: float) -> bool:
    return 2 <= pts_s < 4


@pytest.mark.parametrize("b_frames", [0, 3])
def test_frames_that_would_be_late_are_neither_decoded_nor_scaled(tmp_path: Path, b_frames: int) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=10, b_frames=b_frames)
    full = take(path, fps=5, decode="full")
    shed = take(path, fps=5, realtime=True, decode="fast", late=late_from_2_to_4)
    assert [index for index, _ in shed.frames] == [index for index, pts_s in full.frames if not late_from_2_to_4(pts_s)]
    pictures = dict(zip((index for index, _ in full.frames), full.pictures, strict=True))
    assert all(np.array_equal(picture, pictures[index]) for (index, _), picture in zip(shed.frames, shed.pictures, strict=True))
    assert shed.dropped == {"sampled": 30, "stale": 10}
    assert shed.scaled == 20
    assert shed.tally.frames == 60
    assert shed.tally.decoded <= (50 if b_frames else 40)  # with B-frames a codec holds some back when that begins and ends


def test_of_a_long_gop_no_more_than_the_backlog_holds_waits_and_it_goes_on_with_the_next_key_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 240, gop=120)
    full = take(path, fps=5, decode="full")
    shed = take(path, fps=5, realtime=True, decode="fast", late=lambda pts_s: 12.5 <= pts_s < 19)
    indices = [index for index, _ in shed.frames]
    assert indices == [index for index, _ in full.frames if index < 125]  # 65 packets are too many to be made up for
    assert shed.dropped["stale"] >= 25
    assert shed.dropped.total() + len(indices) == 240
    once_more = take(path, fps=5, realtime=True, decode="fast", late=lambda pts_s: 12.5 <= pts_s < 14)
    assert [index for index, _ in once_more.frames] == [index for index, _ in full.frames if not 125 <= index < 140]
    assert all(np.array_equal(a, b) for a, b in zip(once_more.pictures[-20:], full.pictures[-20:], strict=True))


@pytest.mark.parametrize("decode", ["key", "full"])
def test_late_frames_are_shed_in_every_mode(tmp_path: Path, decode: str) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=10)
    everything = take(path, fps=5, realtime=True, decode=decode)
    shed = take(path, fps=5, realtime=True, decode=decode, late=late_from_2_to_4)
    assert shed.frames == [one for one in everything.frames if not late_from_2_to_4(one[1])]
    assert shed.scaled == len(shed.frames)
    assert shed.dropped["stale"] == len(everything.frames) - len(shed.frames)
    assert decode == "full" or shed.tally.decoded == 4


def test_what_is_lossless_is_never_shed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 60, gop=10)
    assert take(path, fps=5, decode="fast", late=lambda pts_s: True) == take(path, fps=5, decode="full")


@pytest.mark.parametrize("line_too_long", [False, True])
def test_shed_frames_tell_that_the_load_is_too_great_unless_their_line_is_too_long(tmp_path: Path, line_too_long: bool) -> None:
    allowance = Allowance()
    config = SourceConfig(id="cam", uri="rtsp://camera.example/hall", fps=5)
    told = []
    allowance.frame = lambda used, now_s: told.append(used)  # type: ignore[method-assign]
    path = make_video(tmp_path / "clip.mp4", 60, gop=10)
    effort = Effort(config, allowance=allowance)
    shed = take(path, fps=5, realtime=True, effort=effort, late=late_from_2_to_4, line_too_long=line_too_long)
    assert shed.dropped["stale"] == 10
    assert told == ([] if line_too_long else [None] * 10)


def test_where_even_key_frames_are_too_many_some_are_left_out(tmp_path: Path) -> None:
    class Few(Allowance):
        gops, keys, reason = 0.0, 0.5, "behind the camera"  # type: ignore[assignment]

    config = SourceConfig(id="cam", uri="rtsp://camera.example/hall", fps=5)
    path = make_video(tmp_path / "clip.mp4", 120, gop=10)
    taken = take(path, fps=5, realtime=True, effort=Effort(config, allowance=Few()))
    assert len(taken.frames) == 6
    assert all(index % 10 == 0 for index, _ in taken.frames)
    assert taken.tally.decoded <= 6 + 10
    assert taken.dropped.total() + len(taken.frames) == 120


# -- with a gate


def still_then_moving(path: Path, still_s: int, moving_s: int, b_frames: int = 0) -> Path:
    """A picture that stands still, then shows a box that walks; key frames every second, 10 frames a second."""
    return make_video(path, 10 * (still_s + moving_s), b_frames=b_frames, moves_from=10 * still_s, size=(176, 144))


def gate() -> Gate:
    return Gate(Presence(0.5, 2.0))


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_still_scene_costs_a_look_now_and_then_and_no_frame_of_an_event_is_lost(tmp_path: Path, b_frames: int) -> None:
    path = still_then_moving(tmp_path / "clip.mp4", 40, 6, b_frames)
    full, gated = take(path, fps=5, decode="full"), take(path, fps=5, gate=gate())
    analysed = dict(zip((index for index, _ in gated.frames), gated.pictures, strict=True))
    expected = dict(zip((index for index, _ in full.frames), full.pictures, strict=True))
    assert all(np.array_equal(picture, expected[index]) for index, picture in analysed.items())
    assert [index for index in expected if index >= 400] == [index for index in analysed if index >= 400]
    still = [index for index in analysed if 100 <= index < 390]
    assert len(still) <= 8  # one in four seconds
    assert max(b - a for a, b in pairwise(still)) <= 50
    assert gated.dropped["gated"] == len(expected) - len(analysed)
    assert gated.tally.frames == 460
    assert gated.tally.decoded < 180  # of 460; the first 10 s and the last 7 are decoded


def test_the_gate_opens_for_what_the_detector_saw_in_a_look(tmp_path: Path) -> None:
    path, watched = still_then_moving(tmp_path / "clip.mp4", 30, 0), gate()
    config = SourceConfig(id="cam", uri=str(path), fps=5, gate="on")
    clock, tally, asleep = ManualClock(), IntakeTally(), []
    somebody = Detections.of([[10, 10, 40, 90]], [0.9], [0])
    with FileSource(config, clock) as source:
        outcomes = Outcomes(tally, lambda reason, frames: None, lambda: True)
        effort = Effort(config, gated=True)
        intake = Intake(config, source, lambda decoded: np.zeros((96, 96, 3), np.uint8), effort, watched, clock, outcomes)
        for packet in source.packets():
            assert isinstance(packet, Packet)
            for sampled in intake.frames(packet):
                frame = sampled.decoded
                if watched.asleep and frame.pts_s > 20:
                    info = FrameInfo("cam", "", frame.frame_index, frame.pts_s, 0, 176, 144, 0, 0)
                    watched.presence.saw(info, somebody)
            asleep.append(watched.asleep)
    opened = asleep.index(False, asleep.index(True))
    assert 200 < opened < 260
    assert watched.reason in ("somebody was seen", "still")


def test_a_gop_that_is_too_long_keeps_the_gate_open(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 300, gop=300, moves_from=1000)
    watched = gate()
    taken = take(path, fps=5, gate=watched)
    assert not watched.asleep
    assert taken.tally.decoded > 240
    assert taken.dropped["gated"] > 100  # by the picture alone
