"""``simulate://``: what its address may say, and the packets it gives."""

import hashlib
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stream.clock import SystemClock
from stream.config import SourceConfig
from stream.config_file import parse_config
from stream.decode import DecodedFrame, Decoder
from stream.errors import ConfigError, SourceUnreadable
from stream.frame import Packet
from stream.simulation.address import SimulatedCamera
from stream.simulation.video import STARTED_AT
from stream.sources import open_source
from stream.testing.clock import ManualClock

pytestmark = pytest.mark.compute

SMALL = "simulate://shop?people=4&seed=2&width=320&height=180&fps=10&seconds=2.5"


def config_of(uri: str, **fields: Any) -> SourceConfig:
    return SourceConfig(id="cam", uri=uri, **fields)


class TestAddress:
    def test_its_query_says_what_is_filmed(self) -> None:
        config = config_of("simulate://plaza?people=40&seed=7&seconds=1.5")
        assert config.scheme == "simulate"
        assert config.simulated == SimulatedCamera(scene="plaza", people=40, seed=7, seconds=1.5)
        assert config.recorded
        assert not config.live
        assert config_of("simulate://plaza", realtime=True).live

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("simulate://plazza", r"no scene 'plazza' \(did you mean plaza\?\); there is plaza, corridor, shop, street, station"),
            ("simulate://", "no scene ''"),
            ("simulate:plaza", "must be like simulate://plaza"),
            ("simulate://plaza/40", "must be like simulate://plaza"),
            ("simulate://plaza?peple=40", r"unknown key 'peple' \(did you mean people\?\)"),
            ("simulate://plaza?people=4#seed=7", "#seed=7 is not read; .*behind a [?]"),
            ("simulate://plaza?scene=shop", "unknown key 'scene'"),
            ("simulate://plaza?people=many", "people=many: .*integer"),
            ("simulate://plaza?people=-1", "people=-1: .*greater than or equal to 0"),
            ("simulate://plaza?seed=1&seed=2", "seed is given twice"),
            ("simulate://plaza?width=641", "width=641: .*multiple of 2"),
            ("simulate://plaza?width=720&height=1280", "720x1280 is too tall"),
            ("simulate://plaza?fps=nan", "fps=nan"),
            ("simulate://plaza?seconds=0", "seconds=0: .*greater than 0"),
        ],
    )
    def test_what_is_wrong_with_it_is_named(self, uri: str, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            config_of(uri)

    def test_one_that_ends_is_not_begun_again(self) -> None:
        with pytest.raises(ValidationError, match="loop is for files; a simulation without seconds never ends"):
            config_of("simulate://plaza?seconds=5", loop=True)

    def test_a_config_file_names_the_key(self, tmp_path: Any) -> None:
        data = {"detectors": {"d": {"model": "m.onnx"}}, "sources": [{"id": "a", "uri": "simulate://stret"}]}
        with pytest.raises(ConfigError, match=r"sources\.0\.uri: no scene 'stret' \(did you mean street\?\)"):
            parse_config(data, "config.yaml", tmp_path)


def read(uri: str, clock: Any = None, **fields: Any) -> tuple[list[Packet], list[DecodedFrame]]:
    packets, frames = [], []
    with open_source(config_of(uri, **fields), None, clock or SystemClock()) as source:
        decoder = Decoder(source)
        for packet in source.packets():
            if isinstance(packet, Packet):
                packets.append(packet)
                frames += decoder.decode(packet)
        frames += decoder.flush()
    assert decoder.undecodable == 0
    return packets, frames


class TestPackets:
    def test_they_hold_the_video_and_end(self) -> None:
        packets, frames = read(SMALL)
        assert [frame.frame_index for frame in frames] == list(range(25))
        np.testing.assert_allclose([frame.pts_s for frame in frames], np.arange(25) / 10, atol=1e-6)
        np.testing.assert_allclose([packet.captured_at for packet in packets], STARTED_AT + np.arange(25) / 10)
        assert {(frame.width, frame.height) for frame in frames} == {(320, 180)}
        assert [packet.data.is_keyframe for packet in packets] == [i % 20 == 0 for i in range(25)]
        picture = frames[-1].frame.to_ndarray(format="bgr24")
        assert picture.std() > 10  # something is to be seen

    def test_every_run_gives_the_same(self) -> None:
        digests = {hashlib.sha256(b"".join(bytes(packet.data) for packet in read(SMALL)[0])).hexdigest() for _ in range(2)}
        assert len(digests) == 1
        assert open_source(config_of(SMALL), None, SystemClock()).session == ""

    def test_in_real_time_they_come_when_they_are_due(self) -> None:
        clock = ManualClock()
        start_s, started_at = clock.monotonic(), clock.time()
        packets, _ = read(SMALL, clock, realtime=True)
        np.testing.assert_allclose([packet.arrived_s - start_s for packet in packets], np.arange(25) / 10, atol=1e-6)
        np.testing.assert_allclose([packet.captured_at - started_at for packet in packets], np.arange(25) / 10, atol=1e-4)
        sessions = {open_source(config_of(SMALL, realtime=True), None, clock).session for _ in range(2)}
        assert len(sessions) == 2

    def test_a_slow_one_gives_signs_of_life(self) -> None:
        uri = "simulate://shop?people=0&width=320&height=180&fps=1&seconds=3"
        with open_source(config_of(uri, realtime=True), None, ManualClock()) as source:
            given = [packet is None for packet in source.packets()]
        assert given.count(False) == 3
        assert given.count(True) >= 2

    def test_closing_ends_an_endless_one(self) -> None:
        with open_source(config_of(SMALL.removesuffix("&seconds=2.5")), None, SystemClock()) as source:
            count = 0
            for _ in source.packets():
                count += 1
                if count == 3:
                    source.close()
        assert count == 3

    def test_a_scene_that_is_too_small_is_named(self) -> None:
        with (
            pytest.raises(SourceUnreadable, match=r"people must be 0 to \d+ in this shop \(seed 1\), not 900"),
            open_source(config_of("simulate://shop?people=900"), None, SystemClock()),
        ):
            pass
