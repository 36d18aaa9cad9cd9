"""Effort: how much of a stream is decoded, as its source asks and as the machine can bear."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from stream.config import SourceConfig

Level = Literal["full", "fast", "key"]

BEHIND_S = 0.3  # later than this, all the time for a second, and decoding costs too much
CAUGHT_UP_S = 0.1
JUDGED_S = 1.0  # the least lag of this time counts: a single late packet means nothing
PATIENCE_S = 30.0  # so long without being behind, and more is tried again
MAX_PATIENCE_S = 960.0  # five failures on: each one doubles the patience
FAILED_S = 60.0  # behind again this soon after more was tried: that was too much
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
    frames are asked for; and ``key`` too while the source falls behind the camera. Then it tries ``fast`` again after
    ``PATIENCE_S`` without lag, twice as long each time that this fails at once.

    Args:
        config: the source.
        gated: packets may have to be held back, which ``full`` never does.
    """

    def __init__(self, config: SourceConfig, *, gated: bool = False):
        self._fps, self._auto = config.fps, config.decode == "auto" and config.live
        self._choice = self._first(config, gated)
        self._fallback: Choice | None = None
        self._lags: deque[tuple[float, float]] = deque()
        self._keys_s: deque[float] = deque(maxlen=MIN_KEYS + 1)
        self._slow = False  # only key frames, because of lag
        self._since_s = 0.0
        self._patience_s = PATIENCE_S

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
        return self._fallback or self._choice

    def begin(self) -> None:
        """The source is opened anew: what was seen of its stream is forgotten, what was learned about the load is not."""
        self._fallback = None
        self._keys_s.clear()
        self._lags.clear()

    def fall_back(self, reason: str) -> None:
        """This stream cannot be decoded in part: everything is decoded until it is opened anew."""
        self._fallback = Choice("full", reason)

    def key(self, pts_s: float) -> None:
        """A key frame comes at this media time."""
        self._keys_s.append(pts_s)
        if self._auto and not self._slow:
            self._choice = self._by_stream()

    def _by_stream(self) -> Choice:
        """``key`` where it gives what is asked for."""
        if self._fps is not None and len(self._keys_s) == self._keys_s.maxlen:
            longest_s = max(later - earlier for earlier, later in zip(self._keys_s, list(self._keys_s)[1:], strict=False))
            if longest_s <= 1.01 / self._fps:  # clocks of 90 kHz round
                return Choice("key", "key frames come as often as frames are analysed")
        return Choice("fast", WHAT_IS_NEEDED)

    def lag(self, lag_s: float, now_s: float) -> None:
        """Take in how late a packet is in our hands; asked for every packet of a live source.

        Args:
            lag_s: seconds from when the packet was due to now.
            now_s: monotonic time.
        """
        if not self._auto:
            return
        self._lags.append((now_s, lag_s))
        while now_s - self._lags[0][0] > JUDGED_S:
            self._lags.popleft()
        least_s = min(lag for _, lag in self._lags)
        watched_s = now_s - self._lags[0][0]
        if self._slow:
            if least_s >= CAUGHT_UP_S and watched_s >= JUDGED_S / 2:
                self._since_s = now_s
            elif now_s - self._since_s >= self._patience_s:
                self._slow, self._since_s = False, now_s
                self._lags.clear()
                self._choice = self._by_stream()
        elif least_s >= BEHIND_S and watched_s >= JUDGED_S / 2:
            failed = self._since_s > 0 and now_s - self._since_s < FAILED_S
            self._patience_s = min(2 * self._patience_s, MAX_PATIENCE_S) if failed else PATIENCE_S
            self._slow, self._since_s = True, now_s
            self._choice = Choice("key", f"{least_s:.1f} s behind the camera")
