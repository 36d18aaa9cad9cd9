"""The Source protocol: where packets come from; and what several sources do alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import av

from stream.clock import Clock
from stream.events import DeadLetter
from stream.frame import Packet

WAIT_SLICE_S = 0.2  # between two looks at the close flag
SIGN_OF_LIFE_S = 0.5
MAX_REORDER_S = 1.0  # B-frames need less; a broken file must not delay its packets for longer


class Source(Protocol):
    """A stream of packets of one video. Used from one thread, except ``close``, which any thread may call.

    A context manager: ``with source: for packet in source.packets(): ...``. Entering opens the input.

    Attributes:
        source_id: id in the config.
        session: see ``FrameInfo.session``; a new value each time a live source is opened.
    """

    source_id: str
    session: str

    def __enter__(self) -> Source:
        """Open the input.

        Raises:
            SourceUnreadable: trying again will not help (missing file, not a video, unknown codec, wrong password).
            SourceUnavailable: it may (refused, timed out).
        """

    def __exit__(self, *exc: object) -> None:
        """Close the input."""

    def codec_context(self) -> av.VideoCodecContext:
        """A decoder for the packet given last, set up with the stream's parameters, not opened yet when it is new. The
        decoder asks before each packet: another object than before means that another video begins, and media time
        may go back."""

    def packets(self) -> Iterator[Packet | DeadLetter | None]:
        """Packets in decode order. None means "nothing new, still alive", and is given at least once a second, so
        that the caller can look at its stop flag; a DeadLetter stands for a record that could not be read. A finite
        input ends; a live one that ends has been lost and raises.

        Raises:
            SourceTruncated: a file broke off or was damaged; everything before was given.
            SourceUnavailable: a live input was lost or stalled.
        """

    def number(self, position: int) -> int:
        """``frame_index`` of the next frame in presentation order, whose packet lay at ``position``; the decoder asks
        exactly once for each frame."""

    def reject(self, packet: Packet, reason: str) -> None:
        """The packet could not be decoded. A Kafka source makes a dead letter of it, which ``packets`` gives next."""

    def commit(self, frame_index: int) -> None:
        """All events of the frames up to and including this one are safe; a Kafka source commits its offsets."""

    def close(self) -> None:
        """Make a blocked ``packets`` end soon; may be called from any thread, and more than once."""


class Sequential:
    """Of a source that numbers its frames as they come and keeps no position: files, cameras, simulations."""

    def __init__(self) -> None:
        self._frames = 0

    def number(self, position: int) -> int:
        self._frames += 1
        return self._frames - 1

    def reject(self, packet: Packet, reason: str) -> None:
        """The decoder has counted it; there is nowhere to report it."""

    def commit(self, frame_index: int) -> None:
        """There is no position to keep."""


def wait_until(due_s: float, clock: Clock, closed: Callable[[], bool]) -> Iterator[None]:
    """Wait until a monotonic time or until ``closed``; None now and then is a sign of life, see ``Source.packets``."""
    told_s = clock.monotonic()
    while not closed() and (left_s := due_s - clock.monotonic()) > 0:
        clock.sleep(min(left_s, WAIT_SLICE_S))
        if clock.monotonic() - told_s > SIGN_OF_LIFE_S:
            told_s = clock.monotonic()
            yield None
