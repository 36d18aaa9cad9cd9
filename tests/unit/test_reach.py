"""What sources that come over the API may reach."""

import socket
from typing import Any

import pytest
from pydantic import ValidationError

from stream.access import AccessConfig
from stream.config import SourceConfig
from stream.reach import reach_faults

ADDRESSES = {"camera.example": ["203.0.114.7"], "inside.example": ["203.0.114.7", "10.1.2.3"], "here": ["127.0.0.1"]}


def resolve(host: str) -> list[str]:
    """Knows a few names, and numbers in any form that the system's resolver takes."""
    if host in ADDRESSES:
        return ADDRESSES[host]
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)]


def faults(uri: str, kafka: dict[str, Any] | None = None, **access: Any) -> list[str]:
    source = SourceConfig.model_validate({"id": "a", "uri": uri, "kafka": kafka})
    return [str(fault) for fault in reach_faults(source, AccessConfig(**access), resolve)]


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://camera.example/a",
        "rtsps://viewer:p@ss:w0rd@camera.example:554/a?b=c#d",
        "rtsp://203.0.114.7/a",
        "rtsp://[2606:4700::1]:554/a",
        "simulate://plaza?people=3",
        "kafka://frames",
    ],
)
def test_what_lies_outside_is_taken(uri: str) -> None:
    assert faults(uri) == []


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://here/a",
        "rtsp://127.0.0.1/a",
        "rtsp://127.1/a",
        "rtsp://0x7f000001/a",
        "rtsp://2130706433/a",
        "rtsp://0/a",
        "rtsp://[::1]/a",
        "rtsp://[::ffff:127.0.0.1]/a",
        "rtsp://[fe80::1%25eth0]/a",
        "rtsp://10.0.0.1:554/a",
        "rtsp://192.168.1.1/a",
        "rtsp://169.254.169.254/latest",
        "rtsp://100.64.0.1/a",
        "rtsp://224.0.0.1/a",
        "rtsp://0.0.0.0/a",
        "rtsp://inside.example/a",
        "rtsp://viewer:secret@camera.example@127.0.0.1/a",
        "rtsp://127.0.0.1?@camera.example/a",
        "rtsp://127.0.0.1#@camera.example/a",
        "rtsp://127.0.0.1?x/@camera.example/a",
    ],
)
def test_no_way_leads_into_private_networks(uri: str) -> None:
    (fault,) = faults(uri)
    assert fault.startswith("uri: host ")
    assert "secret" not in fault
    assert faults(uri, allowed_hosts=["*"]) == []


def test_hosts_and_networks_may_be_named() -> None:
    assert faults("rtsp://10.1.2.3/a", allowed_hosts=["10.0.0.0/8"]) == []
    assert faults("rtsp://inside.example/a", allowed_hosts=["10.1.2.3"]) == []
    assert faults("rtsp://Here/a", allowed_hosts=["here"]) == []
    assert faults("rtsp://10.1.2.3/a", allowed_hosts=["10.1.2.4", "192.168.0.0/16"]) != []
    with pytest.raises(ValidationError, match="is no network"):
        AccessConfig(allowed_hosts=["10.0.0.0/33"])


@pytest.mark.parametrize("uri", ["rtsp://nowhere.invalid/a", "rtsp://:554/a", "rtsp://a..b/a", f"rtsp://{'a' * 70}.example/a"])
def test_a_host_that_cannot_be_resolved_is_refused(uri: str) -> None:
    (fault,) = faults(uri)
    assert "cannot be resolved" in fault


def test_files_are_taken_only_where_the_config_says_so() -> None:
    assert "scheme file is not taken" in faults("/etc/passwd")[0]
    assert "scheme simulate is not taken" in faults("simulate://plaza", allowed_schemes=["rtsp"])[0]
    assert faults("/data/clip 1.mp4", allowed_schemes=["file"]) == []
    assert faults("clip.mp4", allowed_schemes=["file"]) == ["uri: must be an absolute path"]


def test_a_masked_password_and_blanks_are_no_address() -> None:
    assert "give the password" in faults("rtsp://viewer:***@camera.example/a")[0]
    assert "blanks" in faults("rtsp://camera.example/a b")[0]


def test_brokers_of_a_source_are_hosts_too() -> None:
    brokers = {"bootstrap_servers": ["camera.example:9092", "10.0.0.1:9092", "[::1]:9092", "here"]}
    found = faults("kafka://frames", brokers)
    assert [fault.split(":")[0] for fault in found] == [f"kafka.bootstrap_servers.{i}" for i in (1, 2, 3)]
    assert faults("kafka://frames", brokers, allowed_hosts=["*"]) == []
    more = {"bootstrap_servers": ["camera.example"], "options": {"bootstrap_servers": "127.0.0.1"}, "ssl_cafile": "/etc/passwd"}
    assert [fault.split(":")[0] for fault in faults("kafka://frames", more)] == ["kafka.options", "kafka.ssl_cafile"]
