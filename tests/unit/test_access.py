"""Who is let in: tokens, roles, failures, and the token that the service makes."""

import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.access import MAX_ADDRESSES, MAX_FAILURES, AccessConfig, AccessDenied, Caller, Guard, TlsConfig, TokenConfig, kept_token
from stream.config import ServiceConfig
from stream.config_file import parse_config
from stream.testing import ManualClock
from tests.support.kafka_broker import certificates

OLGA = TokenConfig(name="olga", role="operator", token="operator-0123456789")
VICTOR = TokenConfig(name="victor", token="viewer-0123456789")


def guard_of(tmp_path: Path, clock: ManualClock | None = None, **settings: Any) -> Guard:
    return Guard(AccessConfig(**({"tokens": [OLGA, VICTOR]} | settings)), tmp_path / "state", clock or ManualClock())


def test_callers_are_known_by_their_tokens(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    assert guard.caller(OLGA.token, "192.0.2.1") == Caller("olga", "operator")
    assert guard.caller(VICTOR.token, "192.0.2.1") == Caller("victor", "viewer")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("token", [None, "", "x", OLGA.token[:-1], OLGA.token + " ", OLGA.token.upper(), "olga", "é" * 20])
def test_nobody_else_is(token: str | None, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied):
        guard_of(tmp_path).caller(token, "192.0.2.1")


@settings(max_examples=30)
@given(st.text())
def test_no_text_is_a_token_by_chance(token: str) -> None:
    with pytest.raises(AccessDenied):
        Guard(AccessConfig(tokens=[OLGA]), Path("/nowhere"), ManualClock()).caller(token, "192.0.2.1")


def test_too_many_failures_close_the_door_for_a_while(tmp_path: Path) -> None:
    clock = ManualClock()
    guard = guard_of(tmp_path, clock)
    for i in range(MAX_FAILURES):
        with pytest.raises(AccessDenied) as denied:
            guard.caller(f"guess {i}", "192.0.2.1")
        assert denied.value.retry_after_s is None
        clock.advance(1)
    with pytest.raises(AccessDenied) as denied:
        guard.caller(OLGA.token, "192.0.2.1")
    assert denied.value.retry_after_s == pytest.approx(50)
    assert guard.caller(OLGA.token, "192.0.2.2").name == "olga"
    clock.advance(50)
    assert guard.caller(OLGA.token, "192.0.2.1").name == "olga"


def test_who_shows_no_token_guesses_nothing(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    for _ in range(2 * MAX_FAILURES):
        with pytest.raises(AccessDenied):
            guard.caller(None, "192.0.2.1")
    assert guard.caller(OLGA.token, "192.0.2.1").name == "olga"


def test_failures_of_many_addresses_are_bounded(tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    for i in range(MAX_ADDRESSES + 100):
        with pytest.raises(AccessDenied):
            guard.caller("guess", f"address {i}")
    assert len(guard._failures) == MAX_ADDRESSES


def test_a_token_is_made_once_and_kept_for_this_user_alone(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, tokens=[])
    path = tmp_path / "state" / "token"
    token = path.read_text().strip()
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guard.caller(token, "192.0.2.1") == Caller("operator", "operator")
    path.chmod(0o644)
    assert kept_token(tmp_path / "state") == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")  # its maker died
    assert len(kept_token(tmp_path / "state")) >= 32


def test_a_token_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(FileExistsError):
        guard_of(tmp_path, tokens=[])


def test_with_access_off_this_machine_alone_is_answered(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, enabled=False)
    assert guard.caller(None, "127.0.0.1").role == "operator"
    assert guard.caller(None, "::1").role == "operator"
    for address in ("192.0.2.1", "unknown", ""):
        with pytest.raises(AccessDenied):
            guard.caller(OLGA.token, address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_access_may_be_off_on_loopback(host: str) -> None:
    assert not ServiceConfig(host=host, access=AccessConfig(enabled=False)).access.enabled


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "camera.example", ""])
def test_access_may_be_off_nowhere_else(host: str) -> None:
    with pytest.raises(ValidationError, match="access may be off only"):
        ServiceConfig(host=host, access=AccessConfig(enabled=False))


@pytest.mark.parametrize("token", ["", "short", "with space 0123456789", "line\n0123456789012345", "é" * 16])
def test_weak_tokens_are_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValidationError):
        TokenConfig(name="olga", token=token)
    assert OLGA.token not in repr(OLGA)


@pytest.mark.parametrize("other", [{"name": "olga"}, {"token": OLGA.token}])
def test_tokens_differ(other: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="must differ"):
        AccessConfig(tokens=[OLGA, VICTOR.model_copy(update=other)])


def test_a_certificate_and_its_key_are_looked_at(tmp_path: Path) -> None:
    made = certificates(tmp_path / "made", names=("ca",))
    assert TlsConfig(certfile=made["cert"], keyfile=made["key"]).check() == []
    (wrong,) = TlsConfig(certfile=made["cert"], keyfile=tmp_path / "made" / "ca.key").check()
    assert (wrong.key, "KEY_VALUES_MISMATCH" in wrong.reason) == ("", True)
    (missing,) = TlsConfig(certfile=made["cert"], keyfile=tmp_path / "none.pem").check()
    assert missing.key == "keyfile"
    (no_certificate,) = TlsConfig(certfile=made["key"], keyfile=made["key"]).check()
    assert no_certificate.key == ""


def test_tls_in_the_config(tmp_path: Path) -> None:
    tls = {"certfile": "cert.pem", "keyfile": "/etc/key.pem"}
    service = {"host": "::1", "port": 8443, "tls": tls}
    config = parse_config({"detectors": {"people": {"model": "m.onnx"}}, "service": service}, "test", tmp_path)
    assert config.service.url == "https://[::1]:8443"
    assert config.service.tls is not None
    assert (config.service.tls.certfile, config.service.tls.keyfile) == (tmp_path / "cert.pem", Path("/etc/key.pem"))
    assert [fault.key for fault in config.service.check_tls()] == ["service.tls.certfile"]
    assert config.digest() == config.model_copy(update={"service": ServiceConfig(state_dir=config.service.state_dir)}).digest()
