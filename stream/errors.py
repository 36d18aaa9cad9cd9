"""Every error that framewatch raises on purpose.

::

    FramewatchError
    ├── ConfigError             a config file is wrong; lists every fault with its key
    ├── DetectionsLost          a setting finds fewer objects than full decoding does
    ├── DatasetError            labels, pictures or truth are missing, unreadable or contradict each other
    ├── ModelError              a model file or its YAML is missing, unreadable or contradicts itself
    ├── SourceError             something about one source; carries source_id
    │   ├── SourceUnreadable    permanent: missing file, not a video, unknown codec, wrong password
    │   ├── SourceTruncated     what could be read was read, then the input broke off
    │   └── SourceUnavailable   (Retryable) refused, timed out, stalled, or ended where it should not
    ├── TrainingError           the loss is no longer a number, or what was trained cannot be written or exported
    ├── EvidenceError           a picture or clip of an alert cannot be made; carries the reason under which it is counted
    ├── EvidenceMissing         there is no such picture or clip, or not yet, or not any more
    ├── RecordError             one poison Kafka record; it becomes a dead letter
    ├── PictureError            a picture that was sent for detection cannot be used
    ├── DetectorError           the model failed on a batch
    │   ├── SlotReused          a batch in shared memory was given up and overwritten while it was read
    │   └── DetectorUnavailable (Retryable) no replica can be asked at present
    │       └── SlotUnavailable (Retryable) a batch in shared memory cannot be read there; it must travel by value
    ├── AggregatorUnavailable   (Retryable) the aggregator cannot be reached at present
    ├── DoorUnavailable         (Retryable) a process of this host does not answer; there may be another way to it
    └── SinkError               an event could not be written
        └── SinkUnavailable     (Retryable) the broker cannot be reached at present

``Retryable`` is a mix-in: catching it is how a caller decides to try again. Messages never hold a secret: every text that
an error is made with goes through ``stream.redact.redact``.
"""

from dataclasses import dataclass

from stream.redact import redact


class FramewatchError(Exception):
    """Base of all errors below."""

    def __init__(self, *args: object):
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class Retryable(Exception):
    """Mix-in: the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a config: the dotted ``key`` (``sources.2.uri``) and the ``reason``."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


class ConfigError(FramewatchError):
    """A config cannot be used. ``faults`` holds every fault found, not only the first."""

    def __init__(self, path: str, faults: list[Fault]):
        self.path, self.faults = path, [Fault(fault.key, redact(fault.reason)) for fault in faults]
        super().__init__("\n".join(f"{path}: {fault}" for fault in self.faults))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, list[Fault]]]:
        return ConfigError, (self.path, self.faults)


class DetectionsLost(FramewatchError):
    """A setting saves work at the price of detections; the message names it and the figure."""


class DatasetError(FramewatchError):
    """Labels, pictures or truth cannot be used; the message names the file."""


class ModelError(FramewatchError):
    """A model cannot be loaded; the message names the file."""


class TrainingError(FramewatchError):
    """The loss is no longer a number, a result cannot be written, or the exported files do not do what the network does."""


class SourceError(FramewatchError):
    """Something is wrong with one source; ``reason`` is free of secrets."""

    def __init__(self, source_id: str, reason: str):
        self.source_id, self.reason = source_id, redact(reason)
        super().__init__(f"source {source_id!r}: {self.reason}")

    def __reduce__(self) -> tuple[type["SourceError"], tuple[str, str]]:
        return type(self), (self.source_id, self.reason)


class SourceUnreadable(SourceError):
    """Trying again will not help."""


class SourceTruncated(SourceError):
    """The input broke off or was damaged; everything before that was delivered."""


class SourceUnavailable(SourceError, Retryable):
    """The source cannot be reached at present, or stopped sending."""


class EvidenceError(FramewatchError):
    """A picture or clip of an alert cannot be made. ``reason`` is one of

    - ``not_in_buffer``: its packets are not held any more, or never were;
    - ``undecodable``; ``untimed``: packets without times, which cannot be put into a clip; ``codec``: MP4 does not take it;
    - ``store``: it cannot be written or read.
    """

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple[type["EvidenceError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class EvidenceMissing(FramewatchError):
    """There is no such picture or clip: it was not made, is not made yet, or has expired."""


class RecordError(FramewatchError):
    """One record of a Kafka topic cannot be read."""


class PictureError(FramewatchError):
    """A picture is no JPEG or PNG, is damaged, or is too large."""


class DetectorError(FramewatchError):
    """The model failed on a batch."""


class DetectorUnavailable(DetectorError, Retryable):
    """No replica of the detector can be asked at present."""


class SlotUnavailable(DetectorUnavailable):
    """A batch in shared memory cannot be read by this process: its writer is on another host or has ended."""


class SlotReused(DetectorError):
    """A batch in shared memory was overwritten by the next one while it was read: nobody awaits its detections."""


class AggregatorUnavailable(FramewatchError, Retryable):
    """The aggregator cannot be reached at present; it is being restarted."""


class DoorUnavailable(FramewatchError, Retryable):
    """A process cannot be called directly: it is on another host, has ended, or does not answer."""


class SinkError(FramewatchError):
    """An event could not be written."""


class SinkUnavailable(SinkError, Retryable):
    """The sink cannot be reached at present."""
