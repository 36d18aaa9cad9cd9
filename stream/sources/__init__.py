"""Sources: where packets come from."""

from __future__ import annotations

from stream.clock import Clock
from stream.config import KafkaInput, SourceConfig
from stream.errors import SourceUnreadable
from stream.sources.base import Source


def open_source(config: SourceConfig, kafka: KafkaInput | None, clock: Clock) -> Source:
    """The source that ``config.uri`` asks for, not entered yet.

    Args:
        config: the source.
        kafka: where the brokers are; needed for ``kafka://`` only.
        clock: wall and monotonic time.

    Raises:
        SourceUnreadable: ``kafka://`` without brokers.
    """
    if config.scheme == "kafka":
        from stream.sources.kafka import KafkaSource  # kafka-python takes 0.2 s to import

        if kafka is None:
            raise SourceUnreadable(config.id, "no brokers are known for kafka://: set bootstrap_servers")
        return KafkaSource(config, kafka, clock)
    if config.camera:
        from stream.sources.rtsp import RtspSource

        return RtspSource(config, clock)
    if config.scheme == "simulate":
        from stream.sources.simulated import SimulatedSource

        return SimulatedSource(config, clock)
    from stream.sources.file import FileSource

    return FileSource(config, clock)
