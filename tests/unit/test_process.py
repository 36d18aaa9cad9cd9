"""``framewatch process``: the names of its inputs, which go into every event."""

import re

import pytest
from hypothesis import given

from stream.errors import ConfigError
from stream.process import Request, build_config
from tests.unit.test_redact import passwords, users


def id_of(text: str) -> str:
    return build_config(Request((text,))).sources[0].id


@pytest.mark.parametrize(
    ("text", "source_id"),
    [
        ("videos/hall 2.mp4", "hall-2"),
        ("file:///videos/hall.mp4", "hall"),
        ("_hall_.mp4", "hall"),
        ("rtsp://user:secret@10.0.0.5", "10.0.0.5"),
        ("rtsp://user:secret@10.0.0.5:8554/", "10.0.0.5"),
        ("rtsp://user:se/cr#et?@Camera.example", "camera.example"),
        ("rtsp://user@camera.example/live/hall.sdp?token=secret", "hall"),
        ("rtsp://user:secret@[::1", "input"),
        ("simulate://plaza?people=4&seed=2", "plaza"),
    ],
)
def test_an_input_is_named_after_its_file_or_host(text: str, source_id: str) -> None:
    assert id_of(text) == source_id


@given(users, passwords)
def test_a_password_gets_neither_into_an_id_nor_into_a_message(user: str, password: str) -> None:
    for place in ("10.0.0.5", "camera:8554/", "camera/live/1"):
        try:
            text = id_of(f"rtsp://{user}:{password}@{place}")
        except ConfigError as error:  # a password such as @/ leaves no host
            text = str(error)
        assert "Z9" not in text


def test_a_password_gets_into_no_message() -> None:
    with pytest.raises(ConfigError, match=re.escape("rtsp://user:***@: rtsp:// needs a host")):
        build_config(Request(("rtsp://user:secret@",)))


def test_inputs_of_one_name_are_numbered() -> None:
    config = build_config(Request(("a/hall.mp4", "simulate://plaza?seed=1", "simulate://plaza?seed=2", "b/hall.mp4")))
    assert [source.id for source in config.sources] == ["hall", "plaza", "plaza-2", "hall-2"]
