"""redact: a password in any of the shapes that it comes in never gets out."""

import string
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.redact import MASK, redact

# Passwords as people set them, with all that breaks URLs. Those with a line break or with a whole URL of ours inside are
# beyond what can be told from text.
passwords = st.text(string.ascii_letters + string.digits + "@:/%?#&=+,;!$'\"\\<>[]{}()*-_.~^|` äß€", min_size=1, max_size=24).map(
    lambda tail: "Z9" + tail
)
users = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=10).filter(
    lambda user: "Z9" not in user and redact(f"{user}:x") == f"{user}:x"  # who is called PWD is masked with what follows
)
texts = st.text(max_size=200) | st.text("@:/%='\" \\aps*", max_size=60)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("rtsp://viewer:secret@10.0.0.1:554/live", "rtsp://viewer:***@10.0.0.1:554/live"),
        (
            "[Errno 111] Connection refused: 'rtsp://v:p@ss:w/rd %41@h:8554/x'",
            "[Errno 111] Connection refused: 'rtsp://v:***@h:8554/x'",
        ),
        ("rtsp://viewer@h/x", "rtsp://viewer@h/x"),
        ("rtsp://viewer@site:secret@h/x", "rtsp://viewer@site:***@h/x"),
        ("rtsp://:secret@h/x", "rtsp://:***@h/x"),
        ("rtsp://viewer%3Asecret@h/x", "rtsp://viewer%3A***@h/x"),
        ("url=rtsp%3A%2F%2Fviewer%3Asecret%40h%2Fx", "url=rtsp%3A%2F%2Fviewer%3A***%40h%2Fx"),
        (r"rtsp:\/\/viewer:secret@h\/x", r"rtsp:\/\/viewer:***@h\/x"),
        ("rtsp://a:1@h1/x and rtsp://b:2@h2/y", "rtsp://a:***@h1/x and rtsp://b:***@h2/y"),
        ("rtsp://h:554/x\nuser@example.org", "rtsp://h:554/x\nuser@example.org"),
        ("rtsp://h:554/x with people@sha256:0123456789ab", "rtsp://h:554/x with people@sha256:0123456789ab"),
        ("no URL: a@b", "no URL: a@b"),
        ("http://h/?password=secret", "http://h/?password=***"),
        ("rtsp://h/live?usr=admin&pass=secret", "rtsp://h/live?usr=admin&pass=***"),
        ("rtsp://h/11?user=a&pw=secret&stream=0: refused", "rtsp://h/11?user=a&pw=***&stream=0: refused"),
        ("rtsp://h/av?auth=c2VjcmV0", "rtsp://h/av?auth=***"),
        ("u=rtsp%3A%2F%2Fh%2F11%3Fu%3Da%26p%3Dsecret%26s%3D0", "u=rtsp%3A%2F%2Fh%2F11%3Fu%3Da%26p%3D***%26s%3D0"),
        ("kafka://frames?key=door", "kafka://frames?key=door"),
        ("tokens.json: not valid JSON", "tokens.json: not valid JSON"),
        ("/data/secret.csv:12: label: is missing", "/data/secret.csv:12: label: is missing"),
        ("api_key.onnx: no such file", "api_key.onnx: no such file"),
        ("{'sasl_plain_password': 'a \\' b', 'n': 1}", "{'sasl_plain_password': '***', 'n': 1}"),
        ('{"password": "a \\" b", "n": 1}', '{"password": "***", "n": 1}'),
        ("KafkaSinkConfig(password='a b', group=None)", "KafkaSinkConfig(password='***', group=None)"),
        ('sasl.jaas.config=X required password="a b";', 'sasl.jaas.config=X required password="***";'),
        ("ssl_password = secret next", "ssl_password = *** next"),
        ("API-KEY: abc", "API-KEY: ***"),
        ("Authorization: Digest username=v, response=abc\r\nCSeq: 1", "Authorization: ***\r\nCSeq: 1"),
        ("b'Authorization: Basic dmlld2Vy'", "b'Authorization: ***"),
        ("wrong user name or password", "wrong user name or password"),
    ],
)
def test_known_shapes(text: str, clean: str) -> None:
    assert redact(text) == clean


@given(users, passwords)
@example("u", "Z9 x@y z")
@example("u", "Z9://a@b")
def test_url_as_it_was_typed(user: str, password: str) -> None:
    clean = redact(f"[Errno 5] Input/output error: 'rtsp://{user}:{password}@camera:8554/hall'; trying again")
    assert clean == f"[Errno 5] Input/output error: 'rtsp://{user}:{MASK}@camera:8554/hall'; trying again"


@given(users, passwords)
def test_url_with_an_encoded_password(user: str, password: str) -> None:
    url = f"rtsp://{user}:{quote(password, safe='')}@camera:8554/hall"
    assert redact(url) == f"rtsp://{user}:{MASK}@camera:8554/hall"
    assert "Z9" not in redact("http://proxy/?u=" + quote(url, safe=""))


@given(passwords)
def test_settings(password: str) -> None:
    assert "Z9" not in redact({"security_protocol": "SASL_SSL", "sasl_plain_password": password})
    assert "Z9" not in redact(f"sasl_plain_password={password!r}, bootstrap_servers=[]")
    assert "Z9" not in redact(f"password={password.replace(' ', '')}")


@given(texts)
def test_any_text_is_taken_and_a_second_time_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(string.ascii_letters + " .,()[]-", max_size=80))
def test_plain_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text", ["://" * 30_000, "password" * 12_000, "rtsp://" * 15_000, "password='" * 10_000, "pwd" + " " * 99_000]
)
@pytest.mark.timeout(10)
def test_long_texts_do_not_hang(text: str) -> None:
    assert redact(text)
