"""The commit protocol between ingest and aggregators, with receivers that die on cue."""

import threading
from collections.abc import Sequence

import pytest

from stream.deliver import Delivery, Message, Receipt, SourceFinished, SourceState
from stream.detections import Detections
from stream.errors import AggregatorUnavailable
from stream.frame import DetectedBatch, FrameInfo


def info(source_id: str, index: int) -> FrameInfo:
    return FrameInfo(source_id, "", index, index / 10, 1000 + index / 10, 640, 480, captured_s=index, decoded_s=index)


def batch(*frames: tuple[str, int]) -> DetectedBatch:
    infos = tuple(info(source_id, index) for source_id, index in frames)
    return DetectedBatch("people", "people@sha256:0", infos, tuple(Detections.empty() for _ in infos), detected_s=0.0)


class Receiver:
    """An aggregator that keeps what it processed; ``crash`` loses everything after the last save."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.numbers: dict[str, int] = {}
        self.safe: dict[str, int] = {}
        self.incarnation = 1
        self.saved: tuple[list[tuple[str, int]], dict[str, int]] = ([], {})
        self.away = 0  # calls that fail before the next one gets through
        self.crash_after_next = False

    def process(self, sender: str, number: int, message: Message, expected: str | None) -> Receipt:
        if self.away:
            self.away -= 1
            raise AggregatorUnavailable("away")
        if expected not in (None, str(self.incarnation)):
            return Receipt(str(self.incarnation), False, self.safe.get(sender, 0))
        if number > self.numbers.get(sender, 0):
            assert number == self.numbers.get(sender, 0) + 1, "a message is missing"
            self.numbers[sender] = number
            if isinstance(message, DetectedBatch):
                self.log += [(i.source_id, i.frame_index) for i in message.frames]
            else:
                self.log.append((message.source_id, -1))
        if self.crash_after_next:
            self.crash_after_next = False
            self.crash()
            raise AggregatorUnavailable("died before it answered")
        return Receipt(str(self.incarnation), True, self.safe.get(sender, 0))

    def progress(self, sender: str) -> Receipt:
        return Receipt(str(self.incarnation), True, self.safe.get(sender, 0))

    def save(self) -> None:
        self.saved = (list(self.log), dict(self.numbers))
        self.safe = dict(self.numbers)

    def crash(self) -> None:
        self.incarnation += 1
        self.log, self.numbers = list(self.saved[0]), dict(self.saved[1])


def delivery(*receivers: Receiver, shard: Sequence[str] = ("a", "b")) -> Delivery:
    return Delivery(receivers, lambda source_id: shard.index(source_id) % len(receivers))


def test_messages_arrive_in_order_and_are_safe_only_when_saved() -> None:
    receiver = Receiver()
    sender = delivery(receiver)
    for index in range(3):
        sender.send(batch(("a", index)))
    assert receiver.log == [("a", 0), ("a", 1), ("a", 2)]
    assert sender.progress() == {}
    assert sender.unsafe() == 3
    receiver.save()
    assert sender.progress() == {"a": 2}
    assert sender.unsafe() == 0


def test_an_aggregator_that_answers_anyway_is_not_asked() -> None:
    receiver = Receiver()
    sender = delivery(receiver)
    sender.send(batch(("a", 0)))
    receiver.save()
    assert sender.progress(spare=True) == {}
    assert sender.progress(spare=True) == {"a": 0}  # no message since, so it was asked
    sender.send(batch(("a", 1)))
    receiver.save()
    sender.send(batch(("a", 2)))
    assert sender.progress(spare=True) == {"a": 1}  # the answer to the last message told it
    assert sender.progress() == {"a": 1}


@pytest.mark.parametrize("saved_after", [0, 1, 3])
def test_a_restart_gets_everything_after_its_checkpoint_again(saved_after: int) -> None:
    receiver = Receiver()
    sender = delivery(receiver)
    for index in range(4):
        sender.send(batch(("a", index)))
        if index == saved_after:
            receiver.save()
    receiver.crash()
    sender.send(batch(("a", 4)))
    assert receiver.log == [("a", index) for index in range(5)]


def test_an_answer_lost_in_a_crash_is_no_loss_and_no_duplicate() -> None:
    receiver = Receiver()
    sender = delivery(receiver)
    sender.send(batch(("a", 0)))
    receiver.crash_after_next = True
    sender.send(batch(("a", 1)))
    assert receiver.log == [("a", 0), ("a", 1)]


def test_a_crash_is_noticed_without_a_new_message() -> None:
    receiver = Receiver()
    sender = delivery(receiver)
    sender.send(batch(("a", 0)))
    receiver.crash()
    assert receiver.log == []
    sender.progress()
    assert receiver.log == [("a", 0)]


def test_a_receiver_that_is_away_for_a_while_is_waited_for() -> None:
    receiver = Receiver()
    receiver.away = 2
    sender = delivery(receiver)
    sender.send(SourceState("a", False, "stalled", 5.0))
    assert receiver.log == [("a", -1)]


def test_a_batch_is_split_by_aggregator_in_frame_order() -> None:
    first, second = Receiver(), Receiver()
    sender = delivery(first, second)
    sender.send(batch(("a", 0), ("b", 0), ("a", 1), ("b", 1)))
    sender.send(SourceFinished("b"))
    assert first.log == [("a", 0), ("a", 1)]
    assert second.log == [("b", 0), ("b", 1), ("b", -1)]


def test_close_ends_a_wait_for_a_receiver_that_never_comes_back() -> None:
    receiver = Receiver()
    receiver.away = 1_000_000
    sender = delivery(receiver)
    thread = threading.Thread(target=sender.send, args=(batch(("a", 0)),))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    sender.close()
    thread.join(5)
    assert not thread.is_alive()


def test_the_sender_waits_when_too_much_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.deliver.MAX_UNSAFE", 3)
    receiver = Receiver()
    sender = delivery(receiver)
    for index in range(3):
        sender.send(batch(("a", index)))
    thread = threading.Thread(target=sender.send, args=(batch(("a", 3)),))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert len(receiver.log) == 3
    receiver.save()
    thread.join(5)
    assert receiver.log[-1] == ("a", 3)
    sender.close()
