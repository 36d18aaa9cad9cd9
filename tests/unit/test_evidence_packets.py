"""The ring of packets: what it keeps, for how long, and that it is bounded."""

from fractions import Fraction
from typing import Any, cast

import av
import pytest

from stream.errors import EvidenceError
from stream.evidence.cut import select
from stream.evidence.decode import packet_of
from stream.evidence.packets import KeptPacket, PacketRing, Parameters, Recorder, parameter_sets
from stream.frame import Packet

H264 = Parameters("h264", b"\1avcC")
MS = Fraction(1, 1000)
SPS, PPS, IDR = b"\0\0\0\1\x67sps", b"\0\0\0\1\x68pps", b"\0\0\1\x65slice\0\0\1\x41more"


def kept(number: int, *, key: bool = False, at_s: float | None = None, size: int = 100, **changes: Any) -> KeptPacket:
    """Ten packets a second."""
    pts = number * 100 if at_s is None else round(at_s * 1000)
    values = {
        "number": number,
        "data": bytes(size),
        "pts": pts,
        "dts": number * 100,
        "duration": 100,
        "time_base": MS,
        "key": key,
        "at_s": pts / 1000,
        "position": -1,
        "parameters": H264,
    }
    return KeptPacket(**(values | changes))


def ring(seconds: float, *, keep_s: float = 2.0, max_bytes: int = 10**6, pin_s: float | None = None) -> PacketRing:
    """What is left after so many seconds of packets, a key frame a second; the detector has answered for all of them."""
    made = PacketRing("", max_bytes)
    for number in range(round(seconds * 10)):
        made.add(kept(number, key=number % 10 == 0), keep_s)
        made.answered(number / 10)
        if pin_s == number / 10:
            made.pin(pin_s)
    return made


def span_s(made: PacketRing) -> tuple[float, float]:
    packets = made.packets()
    assert packets[0].key
    return packets[0].at_s, packets[-1].at_s


def test_it_holds_what_was_asked_for_from_a_key_frame_on() -> None:
    assert span_s(ring(60)) == (56.0, 59.9)  # when the key frame at 59.0 came, 57.0 to 59.0 were wanted, less 0.1 s of lag
    assert span_s(ring(60, keep_s=0)) == (58.0, 59.9)


def test_what_is_pinned_stays_until_it_is_not() -> None:
    made = ring(60, pin_s=10.0)
    assert span_s(made)[0] == 10.0
    made.unpin(1)
    made.add(kept(600, key=True), 2.0)
    assert span_s(made)[0] == 57.0


def test_frames_that_have_no_answer_yet_are_waited_for() -> None:
    made = PacketRing("", 10**6)
    for number in range(300):
        made.add(kept(number, key=number % 10 == 0), 1.0)
        made.sent(number / 10)  # the first one counts
    assert span_s(made)[0] == 0.0
    made.answered(20.0)
    made.add(kept(300, key=True), 1.0)
    assert span_s(made)[0] == 19.0


def test_it_is_bounded_whatever_is_wanted() -> None:
    made = PacketRing("", 5000)
    made.pin(0.0)
    for number in range(1000):
        made.add(kept(number, key=number % 10 == 0, size=300), 1e9)
        assert made.bytes <= 5000
        assert made.bytes == sum(len(packet.data) for packet in made.packets())
    assert span_s(made) == (99.0, 99.9)
    for number in range(1000, 1100):  # and no key frame any more
        made.add(kept(number, size=300), 1e9)
        assert made.bytes <= 5000
    assert made.packets() == []
    made.add(kept(1100, key=True), 1e9)
    assert len(made.packets()) == 1


def test_a_video_that_begins_before_the_last_one_ended_takes_its_place() -> None:
    made = ring(60)
    for number in range(30):
        made.add(kept(600 + number, key=number % 10 == 0, at_s=20 + number / 10), 2.0)
    assert span_s(made) == (20.0, 22.9)
    assert made.newest_s == 22.9


def test_packets_before_the_first_key_frame_are_of_no_use() -> None:
    made = PacketRing("", 5000)
    made.add(kept(0), 1.0)
    assert made.packets() == []


# -- the recorder


class Camera:
    """As much of a source as a recorder asks for."""

    def __init__(self, session: str, extradata: bytes | None = None):
        self.session = session
        self.context = cast(av.VideoCodecContext, av.CodecContext.create("h264", "r"))
        self.context.extradata = extradata

    def codec_context(self) -> av.VideoCodecContext:
        return self.context


def packet(number: int, data: bytes = b"\0\0\1\x41p", key: bool = False, pts: int | None = 0) -> Packet:
    made = av.Packet(data)
    made.time_base, made.is_keyframe = MS, key
    made.pts = made.dts = None if pts is None else number * 100
    return Packet(cast(Any, made), 0.0, 0.0)


def test_each_opening_has_a_ring_of_its_own() -> None:
    recorder = Recorder(10**6)
    recorder.keep_s = 5.0
    for session in ("one", "two", "three"):
        recorder.begin(cast(Any, Camera(session)))
        recorder.keep(packet(0, IDR, key=True))
        recorder.keep(packet(1))
        found = recorder.ring(session)
        assert found is not None
        assert [kept.data for kept in found.packets()] == [IDR, b"\0\0\1\x41p"]
        assert not found.ended
    two, three = recorder.ring("two"), recorder.ring("three")
    assert two is not None  # frames of it may still be on their way
    assert two.ended
    assert recorder.ring("one") is None
    recorder.answered("three", 0.1)
    assert recorder.ring("two") is None
    recorder.end()
    assert three is not None
    assert three.ended


def test_nothing_is_kept_of_a_source_without_evidence() -> None:
    recorder = Recorder(10**6)
    recorder.begin(cast(Any, Camera("")))
    recorder.keep(packet(0, IDR, key=True))
    assert recorder.ring("") is None
    recorder.keep_s = 1.0
    recorder.keep(packet(1, IDR, key=True))
    assert recorder.ring("") is not None
    recorder.keep_s = None
    recorder.keep(packet(2))
    assert recorder.ring("") is None


def test_parameter_sets_follow_the_stream() -> None:
    recorder = Recorder(10**6)
    recorder.keep_s = 100.0
    recorder.begin(cast(Any, Camera("", b"\0\0\0\1\x67of the session")))
    recorder.keep(packet(0, IDR, key=True))
    recorder.keep(packet(1, SPS + PPS + IDR, key=True))
    recorder.keep(packet(2, IDR, key=True))
    recorder.keep(packet(3, SPS + b"2" + PPS + IDR, key=True))
    found = recorder.ring("")
    assert found is not None
    assert [kept.parameters.extradata for kept in found.packets()] == [
        b"\0\0\0\1\x67of the session",
        SPS + PPS,
        SPS + PPS,
        SPS + b"2" + PPS,
    ]


def test_those_of_mp4_are_the_containers() -> None:
    recorder = Recorder(10**6)
    recorder.keep_s = 100.0
    recorder.begin(cast(Any, Camera("", b"\1avcC")))
    recorder.keep(packet(0, b"\0\0\1\x67looks like one", key=True))
    found = recorder.ring("")
    assert found is not None
    assert found.packets()[0].parameters == Parameters("h264", b"\1avcC")


@pytest.mark.parametrize(
    ("codec", "data", "found"),
    [
        ("h264", SPS + PPS + IDR, SPS + PPS),
        ("h264", b"\0\0\1\x09\x10" + SPS + b"\0\0\1\x06sei" + PPS + IDR, SPS + PPS),
        ("h264", IDR + SPS, b""),
        ("hevc", b"\0\0\1\x40\x01v\0\0\1\x44\x01p\0\0\1\x26\x01i", b"\0\0\0\1\x40\x01v\0\0\0\1\x44\x01p"),
        ("mjpeg", b"\xff\xd8\xff", b""),
        ("h264", b"", b""),
    ],
)
def test_parameter_sets_are_found(codec: str, data: bytes, found: bytes) -> None:
    assert parameter_sets(codec, data) == found


# -- choosing packets

B_FRAMES = [kept(0, key=True, at_s=0.1), kept(1, at_s=0.4), kept(2, at_s=0.2), kept(3, at_s=0.3), kept(4, key=True, at_s=0.5)]


def test_a_frame_is_found_by_its_time() -> None:
    assert [packet_of(B_FRAMES, at_s, 0) for at_s in (0.1, 0.2, 0.3, 0.4, 0.5)] == [0, 2, 3, 1, 4]
    for at_s in (0.0, 0.65):
        with pytest.raises(EvidenceError, match="not_in_buffer"):
            packet_of(B_FRAMES, at_s, 0)
    with pytest.raises(EvidenceError, match="not_in_buffer"):
        packet_of([], 0.0, 0)


def test_without_times_it_is_found_by_its_number_and_a_picture_by_its_offset() -> None:
    bare = [kept(i + 10, key=i == 0, pts=None, dts=None) for i in range(5)]
    assert packet_of(bare, 99.0, 12) == 2
    jpeg = Parameters("mjpeg", b"")
    records = [kept(i, key=True, at_s=1.0, position=70 + i, parameters=jpeg) for i in range(5)]
    assert packet_of(records, 1.0, 73) == 3


def test_a_clip_begins_with_a_key_frame_and_keeps_to_one_size() -> None:
    other = Parameters("h264", b"other")
    packets = [kept(i, key=i % 10 == 0, parameters=other if i < 20 else H264) for i in range(60)]
    assert [packet.number for packet in select(packets, 4.5, 3.2, 5.25)] == list(range(30, 53))
    assert select(packets, 2.5, 0.0, 3.0)[0].number == 20
    assert select(packets, 1.5, 0.0, 9.0)[-1].number == 19
    with pytest.raises(EvidenceError, match="not_in_buffer"):
        select(packets[30:], 1.0, 0.0, 3.0)
    with pytest.raises(EvidenceError, match="untimed"):
        select([kept(0, key=True, pts=None)], 0.0, 0.0, 1.0)


def test_frames_that_lead_up_to_the_first_key_frame_are_left_out() -> None:
    open_group = [kept(0, key=True, at_s=1.0), kept(1, at_s=0.8), kept(2, at_s=0.9), kept(3, at_s=1.1)]
    assert [packet.number for packet in select(open_group, 1.1, 1.0, 2.0)] == [0, 3]
