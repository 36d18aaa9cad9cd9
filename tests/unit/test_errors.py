"""The error tree: what may be tried again, and errors that travel between processes."""

import pickle

import pytest

from stream import errors
from stream.errors import (
    ConfigError,
    DetectorError,
    DetectorUnavailable,
    Fault,
    FramewatchError,
    ModelError,
    RecordError,
    Retryable,
    SinkError,
    SinkUnavailable,
    SourceTruncated,
    SourceUnavailable,
    SourceUnreadable,
)

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_everything_hangs_on_one_tree() -> None:
    assert all(issubclass(kind, FramewatchError) for kind in ALL if kind is not Retryable)


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in ALL if kind.__name__ not in errors.__doc__] == []


def test_what_is_called_unavailable_may_be_tried_again_and_nothing_else() -> None:
    assert {kind for kind in ALL if issubclass(kind, Retryable)} - {Retryable} == {
        k for k in ALL if k.__name__.endswith("Unavailable")
    }
    assert issubclass(SourceUnavailable, Retryable)
    assert issubclass(SinkUnavailable, SinkError)


@pytest.mark.parametrize("kind", [SourceUnreadable, SourceTruncated, SourceUnavailable])
def test_source_errors_survive_pickling(kind: type[errors.SourceError]) -> None:
    again = pickle.loads(pickle.dumps(kind("hall", "no such file")))
    assert type(again) is kind
    assert (again.source_id, again.reason, str(again)) == ("hall", "no such file", "source 'hall': no such file")


@pytest.mark.parametrize("kind", [DetectorError, RecordError, SinkUnavailable])
def test_other_errors_survive_pickling(kind: type[FramewatchError]) -> None:
    again = pickle.loads(pickle.dumps(kind("why")))
    assert (type(again), str(again)) == (kind, "why")


def test_a_config_error_names_every_fault() -> None:
    error = ConfigError("c.yaml", [Fault("sources.0.uri", "is empty"), Fault("", "is not valid YAML")])
    assert str(error) == "c.yaml: sources.0.uri: is empty\nc.yaml: is not valid YAML"
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.faults, str(again)) == (error.path, error.faults, str(error))


@pytest.mark.parametrize(
    "error",
    [
        SourceUnavailable("hall", "no answer of rtsp://viewer:Z9secret@camera/1"),
        ConfigError("a.yaml", [Fault("sinks.0", "password=Z9secret")]),
        ModelError("https://user:Z9secret@host/model"),
        DetectorUnavailable("token: Z9secret"),
    ],
)
def test_no_error_holds_a_secret_whoever_made_it(error: FramewatchError) -> None:
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert "***" in str(one)
        assert "Z9secret" not in f"{one} {one!r} {vars(one)}"
