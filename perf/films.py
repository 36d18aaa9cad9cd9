"""Films for cameras that all show the same, but not in step."""

from __future__ import annotations

from pathlib import Path

import av

from perf.service import ServiceFailed


def film(file: Path, seconds: float, skipped: float, out: Path) -> Path:
    """``file`` over and over for so long, copied packet by packet; ``skipped`` (0..1) of its first GOP's end are left out."""
    with av.open(str(out), "w") as target:
        stream, offset_s = None, 0.0
        while offset_s < seconds:
            with av.open(str(file)) as container:
                source, end_s = container.streams.video[0], offset_s
                stream = stream or target.add_stream_from_template(source)
                packets = [packet for packet in container.demux(source) if packet.dts is not None and packet.pts is not None]
                keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
                if not keys:
                    raise ServiceFailed(f"{file.name} holds no key frame with a time")
                gap = range(0)
                if not offset_s and len(keys) > 1:  # without B-frames: those would lack the frames that they refer to
                    gap = range(keys[1] - round(skipped * (keys[1] - 1)), keys[1])
                shift_s = sum(float((packets[n].duration or 0) * packets[n].time_base) for n in gap)
                for number, packet in enumerate(packets):
                    if number in gap:
                        continue
                    at_s = offset_s - (shift_s if number >= gap.stop else 0.0)
                    offset = round(at_s / packet.time_base)
                    assert packet.pts is not None
                    assert packet.dts is not None
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    target.mux(packet)
            offset_s = end_s
    return out
