"""Names under which the parts find each other in a Ray cluster."""

NAMESPACE = "framewatch"
APPLICATION = "framewatch"
CONTROL = "Control"
INGEST, AGGREGATOR = "ingest-", "aggregator-"
BESIDE = "beside"
"""Concurrency group of what an actor answers whatever its other calls wait for."""


def detector(name: str) -> str:
    """Serve deployment of a configured detector."""
    return f"detector-{name}"


def ingest(index: int) -> str:
    """Named actor that reads sources."""
    return f"{INGEST}{index}"


def aggregator(index: int) -> str:
    """Named actor that tracks, counts and emits."""
    return f"{AGGREGATOR}{index}"
