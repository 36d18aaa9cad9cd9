"""Where events go: Kafka and JSON lines."""

import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from stream.config import KafkaSinkConfig, SinkConfig
from stream.errors import SinkError
from stream.sinks.base import Sink
from stream.sinks.fanout import FanOut
from stream.sinks.jsonl import JsonlSink

__all__ = ["FanOut", "check_sinks", "open_sinks"]


def open_sinks(configs: Sequence[SinkConfig], spool_dir: Path | None) -> FanOut:
    """One sink that writes to all ``configs``; needs no broker to answer yet (see ``FanOut.check``).

    Args:
        spool_dir: folder for the spools of Kafka sinks, of this process alone: ``kafka-0`` for the first Kafka sink
            and so on, so what a spool holds goes to the sink at the same place in the config. None: no spool.

    Raises:
        SinkError: a file cannot be written, or a spool is in use by another process.
    """
    sinks: list[Sink] = []
    places = count()
    try:
        for config in configs:
            if isinstance(config, KafkaSinkConfig):
                from stream.sinks.kafka import KafkaSink  # kafka-python takes 0.2 s to import

                sinks.append(KafkaSink(config, spool_dir / f"kafka-{next(places)}" if spool_dir else None))
            else:
                sinks.append(JsonlSink(config))
    except SinkError:
        for sink in sinks:
            sink.close(0)
        raise
    return FanOut(sinks)


def check_sinks(configs: Sequence[SinkConfig]) -> None:
    """Open every sink, connect to its broker, and close it again.

    Raises:
        SinkError: a file cannot be written, or a broker cannot be reached.
    """
    with tempfile.TemporaryDirectory() as spool_dir:
        sinks = open_sinks(configs, Path(spool_dir))
        try:
            sinks.check()
        finally:
            sinks.close()
