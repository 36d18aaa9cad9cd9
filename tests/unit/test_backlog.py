"""Backlog: what is held, in which order it is presented, and what a key frame makes needless."""

from itertools import pairwise
from typing import cast

import av
from hypothesis import given
from hypothesis import strategies as st

from stream.backlog import MAX_PACKETS, Backlog
from stream.frame import Packet, Ticket


def ticket_at(pts_s: float, key: bool = False) -> Ticket:
    return Ticket(pts_s, pts_s, 0.04, pts_s, pts_s, pts_s, -1, key, planned=True)


def push(backlog: Backlog, ticket: Ticket, dts_s: float, size_bytes: int = 10) -> list[Ticket]:
    packet = Packet(cast("av.Packet[av.VideoStream]", av.Packet(size_bytes)), 0.0, 0.0)
    return list(backlog.push(packet, ticket, dts_s))


def test_without_b_frames_a_place_is_certain_at_once() -> None:
    backlog = Backlog()
    for i in range(5):
        ticket = ticket_at(i / 25)
        assert push(backlog, ticket, i / 25) == [ticket]
    assert not backlog.reorders
    assert len(backlog) == 5
    assert backlog.bytes == 50


def test_with_b_frames_it_is_when_the_decode_time_has_come_so_far() -> None:
    backlog = Backlog()
    times = [(0, -2), (4, -1), (2, 0), (1, 1), (3, 2), (8, 3), (6, 4)]  # I P B b b P B: presentation, decoding
    certain = [[ticket.pts_s for ticket in push(backlog, ticket_at(pts), dts)] for pts, dts in times]
    assert certain == [[], [], [0], [1], [2], [3], [4]]
    assert backlog.reorders
    assert [ticket.pts_s for ticket in backlog.settle()] == [6, 8]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=40))
def test_times_never_fall_and_no_ticket_is_lost(steps: list[tuple[int, int]]) -> None:
    backlog, given_out = Backlog(), []
    for pts_s, lead_s in steps:
        given_out += push(backlog, ticket_at(pts_s), pts_s - lead_s)
    given_out += list(backlog.settle())
    assert len(given_out) == len(steps)
    assert all(a.pts_s <= b.pts_s for a, b in pairwise(given_out))  # type: ignore[operator]


def test_a_codec_that_gives_out_a_frame_early_settles_it() -> None:
    backlog = Backlog()
    first, second, third = ticket_at(0), ticket_at(1), ticket_at(2)
    for ticket in (first, second, third):
        assert push(backlog, ticket, -5) == []
    assert list(backlog.settle_to(second)) == [first, second]
    assert list(backlog.settle()) == [third]


def test_only_as_much_is_needed_as_leads_to_the_last_wanted_frame() -> None:
    backlog = Backlog()
    tickets = [ticket_at(i) for i in range(4)]
    for ticket in tickets:
        push(backlog, ticket, ticket.pts_s or 0)
    assert backlog.needed == 0
    tickets[2].wanted = True
    assert backlog.needed == 3
    assert [ticket for _, ticket in backlog.wanted()] == [tickets[2]]
    backlog.take()
    assert backlog.needed == 2


def test_a_key_frame_makes_what_is_before_it_needless_leading_frames_too() -> None:
    backlog = Backlog()
    old, key, leading, later = ticket_at(1), ticket_at(5, key=True), ticket_at(4), ticket_at(7)
    for ticket, dts_s in ((old, 1), (key, 2), (leading, 4), (later, 5)):
        push(backlog, ticket, dts_s)
    assert not backlog.needed_before(key)
    leading.wanted = True
    assert backlog.needed_before(key)
    assert backlog.drop_before(key) == [old, leading]
    assert backlog.broken
    assert [backlog.take()[1] for _ in range(len(backlog))] == [key, later]
    assert backlog.bytes == 0


def test_nothing_is_dropped_behind_a_key_frame_that_was_taken() -> None:
    backlog = Backlog()
    key, later = ticket_at(0, key=True), ticket_at(1)
    push(backlog, key, 0)
    backlog.take()
    push(backlog, later, 1)
    assert backlog.drop_before(key) == []
    assert not backlog.broken
    assert len(backlog) == 1


def test_the_bounds() -> None:
    backlog = Backlog()
    for i in range(MAX_PACKETS):
        push(backlog, ticket_at(i), i)
    assert not backlog.full
    assert backlog.span_s() == MAX_PACKETS - 1
    push(backlog, ticket_at(MAX_PACKETS), MAX_PACKETS)
    assert backlog.full
    backlog = Backlog()
    push(backlog, ticket_at(0), 0, size_bytes=9 << 20)
    assert backlog.full
    assert backlog.span_s() == 0
