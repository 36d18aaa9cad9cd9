"""Backlog: packets that wait, not decoded, until a frame of them is needed."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from stream.frame import Packet, Ticket

MAX_PACKETS = 50  # decoding 50 frames of 1080p at once takes about 0.15 s, which the latency budget can bear
MAX_BYTES = 8 * 2**20


class Backlog:
    """Packets of one source, in decode order, and the order in which their frames are presented. Not thread-safe.

    A frame's place in presentation order is certain as soon as a packet's decode time has reached its presentation time:
    no later packet can be presented before it. Without B-frames that is when its own packet arrives, with them about
    when a decoder would give it out.

    Attributes:
        bytes: of the packets held.
        reorders: frames are presented in another order than they are decoded in: the stream has B-frames.
        broken: packets behind the last one taken were dropped, so decoding goes on with a key frame, from new.
    """

    def __init__(self) -> None:
        self._held: deque[tuple[Packet, Ticket]] = deque()
        self._order: list[tuple[float, int, Ticket]] = []  # a heap of those whose place is not certain yet
        self._pushed = 0
        self._pts_s: float | None = None
        self.bytes = 0
        self.broken = self.reorders = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """True when more is held than may be decoded at once."""
        return len(self._held) > MAX_PACKETS or self.bytes > MAX_BYTES

    @property
    def needed(self) -> int:
        """So many packets must be decoded for all held frames that are to be analysed."""
        return max((n for n, (_, ticket) in enumerate(self._held, 1) if ticket.wanted), default=0)

    def span_s(self) -> float:
        """Media time from the first packet held to the last one."""
        if not self._held:
            return 0.0
        return (self._held[-1][1].pts_s or 0.0) - (self._held[0][1].pts_s or 0.0)

    def push(self, packet: Packet, ticket: Ticket, dts_s: float) -> Iterator[Ticket]:
        """Hold one packet more.

        Returns:
            The tickets whose place is certain now, in presentation order. Their ``pts_s`` never falls.
        """
        assert ticket.pts_s is not None
        self._held.append((packet, ticket))
        self.bytes += packet.data.size
        self._pushed += 1
        self.reorders = self.reorders or ticket.pts_s > dts_s
        heapq.heappush(self._order, (ticket.pts_s, self._pushed, ticket))
        return self._settle(dts_s)

    def settle(self) -> Iterator[Ticket]:
        """All others, in presentation order: nothing follows."""
        return self._settle(float("inf"))

    def settle_to(self, ticket: Ticket) -> Iterator[Ticket]:
        """Those up to this one, in presentation order: a decoder has given out its frame."""
        assert ticket.pts_s is not None
        return self._settle(ticket.pts_s)

    def _settle(self, until_s: float) -> Iterator[Ticket]:
        while self._order and self._order[0][0] <= until_s:
            ticket = heapq.heappop(self._order)[2]
            assert ticket.pts_s is not None
            self._pts_s = ticket.pts_s = ticket.pts_s if self._pts_s is None else max(ticket.pts_s, self._pts_s)
            yield ticket

    def position(self, ticket: Ticket) -> int:
        """So many packets must be decoded to decode this ticket's too; 0 where it was taken."""
        return next((n for n, (_, one) in enumerate(self._held, 1) if one is ticket), 0)

    def take(self) -> tuple[Packet, Ticket]:
        """The oldest packet, which is to be decoded now."""
        packet, ticket = self._held.popleft()
        self.bytes -= packet.data.size
        return packet, ticket

    def find(self, ticket: Ticket) -> Packet | None:
        """The packet of a ticket, which stays here; None when it was taken."""
        return next((packet for packet, one in self._held if one is ticket), None)

    def wanted(self) -> list[tuple[Packet, Ticket]]:
        """Packets of frames that are to be analysed; they stay here."""
        return [one for one in self._held if one[1].wanted]

    def needed_before(self, key: Ticket) -> bool:
        """True when :meth:`drop_before` would drop a frame that is to be analysed."""
        behind = False
        for _, ticket in self._held:
            behind = behind or ticket is key
            if ticket.wanted and ticket is not key and (not behind or (ticket.pts_s or 0.0) < (key.pts_s or 0.0)):
                return True
        return False

    def drop_before(self, key: Ticket) -> list[Ticket]:
        """Drop what is not needed to go on from a key frame: all before it, in decode or presentation order. Nothing where
        the key frame itself was taken, and with it all before.

        Returns:
            The tickets of the dropped packets.
        """
        dropped: list[Ticket] = []
        if self.find(key) is None:
            return dropped
        while self._held and self._held[0][1] is not key:
            dropped.append(self.take()[1])
        leading = [one for one in self._held if one[1] is not key and (one[1].pts_s or 0.0) < (key.pts_s or 0.0)]
        for one in leading:
            self._held.remove(one)
            self.bytes -= one[0].data.size
            dropped.append(one[1])
        self.broken = self.broken or bool(dropped)
        return dropped
