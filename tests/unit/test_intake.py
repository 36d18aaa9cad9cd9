"""Intake: with real codecs, the same frames are analysed whatever is decoded for them."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream.config import SourceConfig
from stream.detections import Detections
from stream.effort import Effort
from stream.frame import FrameInfo, Packet, Uint8Array
from stream.gate import Gate, Presence
from stream.intake import MAX_MISSING, Intake, IntakeTally, Outcomes
from stream.sources.file import FileSource
from stream.testing.clock import ManualClock
from tests.support.media import make_video


@dataclass
class Taken:
    """What came out of one file."""

    frames: list[tuple[int, float]] = field(default_factory=list)
    pictures: list[Uint8Array] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    tally: IntakeTally = field(default_factory=IntakeTally)
    level: str = ""

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Taken)
        same = len(self.pictures) == len(other.pictures) and all(map(np.array_equal, self.pictures, other.pictures))
        return self.frames == other.frames and same


def take(path: Path, *, gate: Gate | None = None, damage: int | None = None, **settings: object) -> Taken:
    config = SourceConfig(id="cam", uri=str(path), **settings)  # type: ignore[arg-type]
    clock, taken, effort = ManualClock(), Taken(), Effort(config, gated=gate is not None)

    def dropped(reason: str, frames: int) -> None:
        taken.dropped[reason] += frames

    with FileSource(config, clock) as source:
        outcomes = Outcomes(taken.tally, dropped, lambda: True)
        intake = Intake(config, source, lambda decoded: decoded.frame.to_ndarray(format="bgr24"), effort, gate, clock, outcomes)
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


@pytest.mark.parametrize("damage", [0, 13])
def test_a_stream_without_times_is_decoded_in_full(tmp_path: Path, damage: int) -> None:
    path = make_video(tmp_path / "clip.mp4", 40, gop=10)
    taken = take(path, fps=5, decode="fast", damage=damage)
    assert taken.level == "full"
    assert taken.tally.decoded >= 34
    assert len(taken.frames) in range(18, 22)
    assert [index for index, _ in taken.frames] == sorted({index for index, _ in taken.frames})


def test_a_bare_elementary_stream_is_decoded_in_full(shared: Path) -> None:
    path = shared / "data/hostile/openh264/Static.264"
    full, fast = take(path, decode="full"), take(path, decode="fast")
    assert fast == full
    assert fast.level == "full"


def test_damage_is_counted_and_the_rest_goes_on(shared: Path) -> None:
    path = shared / "data/hostile/made/zeroed_blocks.mp4"
    taken = take(path, decode="fast")
    assert taken.dropped["undecodable"] >= 6
    assert taken.dropped["undecodable"] + len(taken.frames) >= 60
    assert MAX_MISSING < 6


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
