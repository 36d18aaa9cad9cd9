"""Decoder: packets to numbered frames, with real codecs."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from stream.config import SourceConfig
from stream.decode import DecodedFrame, Decoder
from stream.frame import Packet, encoded
from stream.scale import to_picture
from stream.sources.file import FileSource
from stream.testing.clock import ManualClock
from tests.support.media import make_video


def source_of(path: Path) -> FileSource:
    return FileSource(SourceConfig(id="cam", uri=str(path)), ManualClock())


def decode_all(path: Path) -> tuple[list[DecodedFrame], Decoder]:
    with source_of(path) as source:
        decoder = Decoder(source)
        frames = [frame for packet in source.packets() if isinstance(packet, Packet) for frame in decoder.decode(packet)]
        return frames + decoder.flush(), decoder


def test_what_follows_the_bytes_in_memory_is_not_decoded(shared: Path) -> None:
    path = shared / "data/hostile/made/mpeg4.avi"
    expected, _ = decode_all(path)
    with source_of(path) as source:
        packets = [bytes(packet.data) for packet in source.packets() if isinstance(packet, Packet) and packet.data.size]
    context = av.VideoCodecContext.create("mpeg4", "r")
    lying = [memoryview(data + b"\0" + b"\x80" * 63)[: len(data)] for data in packets]  # Python's own zero, then whatever is there
    decoded = [frame for data in lying for frame in context.decode(encoded(data))] + context.decode(None)
    for theirs, ours in zip(expected, decoded, strict=True):
        assert np.array_equal(theirs.frame.to_ndarray(), ours.to_ndarray()), theirs.frame_index


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_all_frames_in_presentation_order(tmp_path: Path, codec: str, b_frames: int) -> None:
    path = make_video(tmp_path / "clip.mp4", 30, codec=codec, b_frames=b_frames)
    frames, decoder = decode_all(path)
    assert [frame.frame_index for frame in frames] == list(range(30))
    assert [frame.pts_s for frame in frames] == pytest.approx([i / 10 for i in range(30)])
    assert decoder.undecodable == 0
    with av.open(str(path)) as container:  # the right picture under each number
        for ours, theirs in zip(frames, container.decode(video=0), strict=True):
            assert np.array_equal(ours.frame.to_ndarray(format="gray"), theirs.to_ndarray(format="gray"))


@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (270, False), (0, True), (90, True), (270, True)])
def test_what_lies_on_its_side_is_turned_as_players_show_it(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    lying = make_video(tmp_path / "lying.mp4", 30, b_frames=3)
    phone = make_video(tmp_path / "phone.mp4", 30, b_frames=3, rotation=rotation, mirrored=mirrored)
    frames, _ = decode_all(phone)
    for theirs, ours in zip(decode_all(lying)[0], frames, strict=True):
        upright = np.rot90(theirs.frame.to_ndarray(format="gray"), rotation // 90)
        upright = upright[:, ::-1] if mirrored else upright
        assert np.array_equal(ours.frame.to_ndarray(format="gray"), upright)
        assert ours.frame.pict_type == theirs.frame.pict_type
        assert (ours.height, ours.width) == (ours.frame.height, ours.frame.width) == upright.shape
        assert (ours.frame_index, ours.pts_s, ours.ticket.position) == (theirs.frame_index, theirs.pts_s, theirs.ticket.position)
        assert ours.frame.opaque is ours.ticket
        picture, expected = to_picture(ours.frame), np.rot90(to_picture(theirs.frame), rotation // 90)
        assert np.abs(picture.astype(int) - (expected[:, ::-1] if mirrored else expected)).mean() < 2


def test_captured_at_belongs_to_the_frame_also_with_b_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 20, b_frames=3, creation_time="2024-05-01T12:00:00Z")
    frames, _ = decode_all(path)
    assert [f.captured_at - frames[0].captured_at for f in frames] == pytest.approx([f.pts_s for f in frames])
    assert frames[0].captured_at == 1_714_564_800.0


def test_captured_s_is_arrival_less_age(tmp_path: Path) -> None:
    with source_of(make_video(tmp_path / "clip.mp4", 1)) as source:
        packet = next(p for p in source.packets() if isinstance(p, Packet))
        decoder = Decoder(source)
        frames = decoder.decode(replace(packet, arrived_s=100.0, age_s=0.25)) + decoder.flush()
    assert [frame.captured_s for frame in frames] == [99.75]


@pytest.mark.parametrize("paced", [False, True])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_frame_is_due_when_the_packets_are_there_that_it_needs(tmp_path: Path, b_frames: int, paced: bool) -> None:
    with source_of(make_video(tmp_path / "clip.mp4", 20, b_frames=b_frames)) as source:
        decoder, ages_s = Decoder(source, paced=paced), []
        packets = [packet for packet in source.packets() if isinstance(packet, Packet) and packet.data.size]
        times = [
            (float(packet.data.dts * packet.data.time_base), float(packet.data.pts * packet.data.time_base)) for packet in packets
        ]
        ahead_s = max(pts_s - dts_s for dts_s, pts_s in times)
        for packet, (dts_s, pts_s) in zip(packets, times, strict=True):  # as a camera would send them
            sent_s = 100 + dts_s + ahead_s
            late_s = 7.0 if paced else 0.0  # the reader of a file is late, but the file was there
            for frame in decoder.decode(replace(packet, arrived_s=sent_s + late_s, age_s=sent_s + late_s - 100 - pts_s)):
                assert frame.captured_s == pytest.approx(100 + frame.pts_s)
                ages_s.append(frame.ticket.line_s)
                assert frame.ticket.due_s == pytest.approx(sent_s)
        assert ages_s
        assert (min(ages_s) > 0) == (b_frames > 0)


def test_flush_gives_the_held_frames_once_and_decoding_goes_on(tmp_path: Path) -> None:
    with source_of(make_video(tmp_path / "clip.mp4", 10, b_frames=3)) as source:
        decoder = Decoder(source)
        packets = [p for p in source.packets() if isinstance(p, Packet) and p.data.size]
        early = [frame for packet in packets for frame in decoder.decode(packet)]
        late = decoder.flush()
        assert len(early) < 10
        assert len(early) + len(late) == 10
        assert decoder.flush() == []
        again = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.flush()
    assert [frame.frame_index for frame in again] == list(range(10, 20))


def test_pts_never_falls(tmp_path: Path) -> None:
    with source_of(make_video(tmp_path / "clip.mp4", 12, gop=1)) as source:
        decoder = Decoder(source)
        packets = [p for p in source.packets() if isinstance(p, Packet) and p.data.size]
        for i in (6, 7):  # an impossible step back in the middle
            packets[i].data.pts = packets[i].data.dts = 0
        times = [f.pts_s for p in packets for f in decoder.decode(p)] + [f.pts_s for f in decoder.flush()]
    assert len(times) == 12
    assert times == sorted(times)


def test_noise_between_good_packets_is_counted_and_skipped(tmp_path: Path) -> None:
    rejected = []
    with source_of(make_video(tmp_path / "clip.avi", 10, codec="mjpeg", gop=1)) as source:
        source.reject = lambda packet, reason: rejected.append(reason)  # type: ignore[method-assign]
        decoder = Decoder(source)
        frames = []
        for packet in source.packets():
            assert isinstance(packet, Packet)
            frames += decoder.decode(packet)
            frames += decoder.decode(replace(packet, data=av.Packet(b"\xff\xd8 no picture"))) if packet.data.size else []
    assert len(frames) == 10
    assert decoder.undecodable == len(rejected) == 10
    assert "cannot be decoded" in rejected[0]


def test_a_picture_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    with av.open(str(make_video(tmp_path / "clip.avi", 1, codec="mjpeg"))) as container:
        jpeg = bytearray(bytes(next(container.demux(video=0))))
    sof = jpeg.find(b"\xff\xc0")
    jpeg[sof + 5 : sof + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535: 6 GiB as YUV 4:2:0
    path = tmp_path / "bomb.jpg"
    path.write_bytes(bytes(jpeg))
    with source_of(make_video(tmp_path / "good.avi", 1, codec="mjpeg")) as source:
        decoder = Decoder(source)
        assert decoder.decode(Packet(av.Packet(bytes(jpeg)), 0.0, 0.0)) == []  # type: ignore[arg-type]
    assert decoder.undecodable == 1


def test_size_change_in_the_stream(shared: Path) -> None:
    frames, decoder = decode_all(shared / "data/hostile/made/resolution_change.ts")
    assert [(f.width, f.height) for f in frames] == [(384, 216)] * 30 + [(640, 360)] * 30
    assert decoder.undecodable == 0


def test_damage_is_counted(shared: Path) -> None:
    frames, decoder = decode_all(shared / "data/hostile/made/zeroed_blocks.mp4")
    assert len(frames) == 54
    assert decoder.undecodable == 6


def test_a_bare_elementary_stream_gets_times(shared: Path) -> None:
    frames, _ = decode_all(shared / "data/hostile/openh264/Static.264")
    steps = np.diff([frame.pts_s for frame in frames])
    assert len(frames) == 10
    assert (steps > 0).all()
    assert np.allclose(steps, steps[0])
