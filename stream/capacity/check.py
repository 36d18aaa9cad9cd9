"""Before a setting is measured: whether it finds what full decoding finds."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stream.agreement import Agreement, Clip, Reading, compare, read
from stream.capacity.plan import Plan
from stream.config import SourceConfig
from stream.detectors.registry import load_detector
from stream.errors import DetectionsLost

AGREEING = 0.99  # of the sampled frames must hold as many objects
COMPARED_S = 60.0  # of the clip at most


def setting_of(source: SourceConfig) -> str:
    """The setting as a config has it."""
    return f"decode: {source.decode}" + (", gate: on" if source.gated else "")


def check(plan: Plan, stop: threading.Event, tell: Callable[[str], None]) -> list[tuple[SourceConfig, Agreement]]:
    """Compare every setting of decoding that the plan has with full decoding, on the first ``COMPARED_S`` of the clip.

    Args:
        plan: what is measured.
        stop: ends it early; the result is of no use then.
        tell: takes lines for the user.

    Returns:
        A source for each setting, and how far it agrees.

    Raises:
        DetectionsLost: a setting finds too little.
        ModelError: a model cannot be used.
        SourceError: the clip cannot be read.
    """
    found: list[tuple[SourceConfig, Agreement]] = []
    clip, config = Clip(until_s=COMPARED_S), plan.config
    for name in {source.detector or "": None for source in plan.sources}:
        lossy = [source for source in plan.sources if source.detector == name and (source.decode != "full" or source.gated)]
        settings = {(source.decode, source.gate, source.fps): source for source in lossy}
        if not settings:
            continue
        detector = load_detector(name, config.detectors[name], config.tracker.low_confidence)
        confidence, lost_s = config.detectors[name].confidence, config.tracker.lost_s
        try:
            full: dict[float | None, Reading] = {}
            for source in settings.values():
                if source.fps not in full:
                    whole = source.model_copy(update={"decode": "full", "gate": "off"})
                    full[source.fps] = read(whole, detector, confidence, lost_s, clip, stop)
                agreement = compare(full[source.fps], read(source, detector, confidence, lost_s, clip, stop))
                if stop.is_set():
                    return found
                judge(source, agreement)
                found.append((source, agreement))
                tell(told(source, agreement))
        finally:
            detector.close()
    return found


def told(source: SourceConfig, agreement: Agreement) -> str:
    """The comparison in words."""
    found = "" if agreement.objects else "; nothing was found in either, so this says little"
    frames = f"{agreement.same} of {agreement.sampled} frames hold as many objects as with full decoding"
    return f"{setting_of(source)}: {frames} ({agreement.share:.1%}){found}"


def judge(source: SourceConfig, agreement: Agreement) -> None:
    """Raises DetectionsLost where a setting finds too little."""
    if agreement.share < AGREEING:
        raise DetectionsLost(
            f"{setting_of(source)} loses detections: only {agreement.share:.1%} of {agreement.sampled} sampled frames hold as many "
            f"objects as with decode: full ({AGREEING:.0%} must; {agreement.analysed} of them are analysed at all). Not measured."
        )
