"""Effort: how much of a stream is decoded, as its source asks and as the machine can bear."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Literal

from stream.allowance import Allowance
from stream.config import SourceConfig

Level = Literal["full", "fast", "key"]

WHAT_IS_NEEDED, GATED = "what the analysed frames need", "packets are held while the scene is still"
MIN_KEYS = 3  # intervals between key frames that are looked at


@dataclass(frozen=True, slots=True)
class Choice:
    """What is decoded and why."""

    level: Level
    reason: str


class Effort:
    """Chooses what is decoded of one source. Not thread-safe.

    =======  =====================================================================================================
    level    what is decoded
    =======  =====================================================================================================
    full     every packet
    fast     what the analysed frames need: they are the same, to the bit, as with ``full``
    key      key frames alone, and of them the analysed ones; fewer frames are analysed where these come too seldom
    =======  =====================================================================================================

    ``auto`` means ``full`` for what is not live. Otherwise it means ``fast``; ``key`` where key frames come as often as
    frames are asked for; and ``key`` too while frames come too late: then as many GOPs as the allowance grants are decoded
    as by ``fast`` all the same, and of the others the key frames alone.

    Args:
        config: the source.
        gated: packets may have to be held back, which ``full`` never does.
        allowance: what the machine can bear, shared by all sources of the process.
    """

    def __init__(self, config: SourceConfig, *, gated: bool = False, allowance: Allowance | None = None):
        self._fps, self._auto, self._live = config.fps, config.decode == "auto" and config.live, config.live
        self._allowance = allowance or Allowance()
        self._wish = self._first(config, gated)  # without regard to the load
        self._fallback: Choice | None = None
        self._keys_s: deque[float] = deque(maxlen=MIN_KEYS + 1)
        self._credit = zlib.crc32(config.id.encode()) / 2**32  # sources take turns: not all of them decode the same second
        self._granted = True  # the GOP of the last key frame, and that key frame
        self._key_credit, self._key_granted = self._credit, True

    @staticmethod
    def _first(config: SourceConfig, gated: bool) -> Choice:
        if config.decode == "full" or config.scheme == "kafka":
            return Choice("full", "as set" if config.decode == "full" else "every record is decoded")
        if config.decode != "auto":
            return Choice(config.decode, "as set")
        return Choice("fast", GATED if gated else WHAT_IS_NEEDED) if gated or config.live else Choice("full", "not live")

    @property
    def choice(self) -> Choice:
        """What holds now; a change of it takes effect with the next key frame."""
        if self._fallback is None and self._auto and self._allowance.gops < 1:
            return Choice("key", self._allowance.reason)
        return self._fallback or self._wish

    @property
    def level(self) -> Level:
        """How the GOP of the last key frame is decoded: as chosen, or more where the allowance grants it."""
        return self._wish.level if self._granted and self._fallback is None else self.choice.level

    @property
    def key_granted(self) -> bool:
        """Whether the last key frame itself may be analysed; False only where even key frames are too many."""
        return self._key_granted

    def begin(self) -> None:
        """The source is opened anew: what was seen of its stream is forgotten."""
        self._fallback = None
        self._keys_s.clear()

    def fall_back(self, reason: str) -> None:
        """This stream cannot be decoded in part: everything is decoded until it is opened anew."""
        self._fallback = Choice("full", reason)

    def key(self, pts_s: float) -> None:
        """A key frame comes at this media time."""
        self._keys_s.append(pts_s)
        if not self._auto:
            return
        self._credit += self._allowance.gops
        self._granted = self._credit >= 1
        self._credit -= self._granted
        self._key_credit += self._allowance.keys
        self._key_granted = self._key_credit >= 1
        self._key_credit -= self._key_granted
        self._wish = self._by_stream()

    def _by_stream(self) -> Choice:
        """``key`` where it gives what is asked for."""
        if self._fps is not None and len(self._keys_s) == self._keys_s.maxlen:
            longest_s = max(later - earlier for earlier, later in zip(self._keys_s, list(self._keys_s)[1:], strict=False))
            if longest_s <= 1.01 / self._fps:  # clocks of 90 kHz round
                return Choice("key", "key frames come as often as frames are analysed")
        return Choice("fast", WHAT_IS_NEEDED)

    def frame(self, used: float | None, now_s: float) -> None:
        """One of the source's frames has its detections, or (None) was given up though its line left time for it; see
        ``Allowance.frame``. From any thread."""
        if self._live:
            self._allowance.frame(used, now_s)
