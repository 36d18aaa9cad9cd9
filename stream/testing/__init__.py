"""Stand-ins for tests of framewatch and of what is built on it: time by hand, a sink in memory, an RTSP camera."""

from stream.testing.clock import ManualClock
from stream.testing.sink import MemorySink

__all__ = ["ManualClock", "MemorySink"]
