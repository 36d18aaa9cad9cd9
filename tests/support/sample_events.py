"""One event of each type."""

from stream.events import AlertEvent, CountsEvent, DeadLetter, Event, HealthEvent, Occupancy, TrackedObject, TracksEvent, timestamp

AT_S = 1_795_381_200.0


def tracks(number: int, source_id: str = "hall", objects: int = 2) -> TracksEvent:
    """The tracks of frame ``number``."""
    return TracksEvent(
        event_id=f"{source_id}-{number}",
        source_id=source_id,
        frame_index=number,
        pts_s=number / 5,
        captured_at=timestamp(AT_S + number / 5),
        width=1920,
        height=1080,
        model="people@sha256:0123456789ab",
        objects=[
            TrackedObject(track_id=i, class_="person", confidence=0.87, xyxy=(10.5, 20.25, 110.75, 220.5), zones=["floor"])
            for i in range(objects)
        ],
        stages_ms={"decode": 2.1, "batch": 11.4, "detect": 4.2, "track": 0.3},
    )


def counts(number: int, source_id: str = "hall") -> CountsEvent:
    """Window ``number`` of zone ``floor``."""
    return CountsEvent(
        event_id=f"{source_id}-{number}",
        source_id=source_id,
        zone="floor",
        window_start=timestamp(AT_S + number),
        window_end=timestamp(AT_S + number + 1),
        frames=5,
        occupancy=Occupancy(min=0, mean=1.2, max=3, last=2),
        entered=1,
        left=0,
        tracks=3,
    )


def one_of_each() -> list[Event]:
    """A tracks, a zone's and a line's counts, an alert, a health event and a dead letter."""
    return [
        tracks(7),
        counts(7),
        CountsEvent(
            event_id="line-7",
            source_id="hall",
            line="door",
            window_start=timestamp(AT_S),
            window_end=timestamp(AT_S + 1),
            frames=5,
            crossings={"in": 1, "out": 0},
        ),
        AlertEvent(
            event_id="alert-event",
            alert_id="alert-1",
            source_id="hall",
            rule="crowd-in-hall",
            type="crowd",
            state="raised",
            severity="warning",
            zone="floor",
            value=4,
            threshold=3,
            raised_at=timestamp(AT_S),
            at=timestamp(AT_S + 2),
        ),
        HealthEvent(event_id="health-1", source_id="gate", state="offline", reason="timed out", at=timestamp(AT_S)),
        DeadLetter(
            event_id="dead-1",
            source_id="yard",
            topic="frames",
            partition=0,
            offset=41,
            reason="not an image",
            at=timestamp(AT_S),
            payload_bytes=3,
            payload="AAEC",
        ),
    ]
