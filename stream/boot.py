"""Which host's monotonic clock this process reads."""

import functools
import uuid
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """The same for all processes of one boot of one host; unique to this process where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex
