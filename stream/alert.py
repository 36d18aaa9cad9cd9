"""AlertEngine: turns what is seen in zones, at lines and of sources into alerts that are raised and cleared once.

Every rule watches one target, those of a source with ``*`` one per source, and each has a state machine::

    idle ──condition──> pending ──held for for_s, cooldown over──> raised ──over──> clearing ──over for clear_for_s──> idle
      ^                    │                                         ^                 │
      └────────over────────┘                                         └────condition────┘

===============  =====================  =========================================  ==============  ==========================
type             value                  raised when                                threshold       over when
===============  =====================  =========================================  ==============  ==========================
crowd            objects, summed        value > above                              above           value < clear_below
intrusion        objects inside         value >= 1                                 1               value is 0
line             crossings so far       somebody crosses the wanted way            1               nobody does
loitering        longest dwell, s       value >= dwell_s                           dwell_s         value < dwell_s
source_offline   seconds offline        the source is offline                      for_s           it is online
source_tampered  seconds tampered with  the source's view is not the usual one     for_s           it is again
===============  =====================  =========================================  ==============  ==========================

- A crossing is a moment and cannot be held: ``for_s`` means nothing to ``line``, and ``clear_for_s`` runs from the last
  crossing. Its value counts the crossings since the one that raised it (or that waits for the cooldown to end).
- The cooldown runs from the last time the rule was raised for this target. A raise that falls into it waits, and comes
  when it is over if the condition still holds.
- ``updated`` is sent when the value is higher than any sent for this alert, at most once a second. A dwell grows by
  itself, so ``loitering`` updates when another track joins or the dwell has grown by another ``dwell_s``.
- Outside its schedule a rule raises nothing, and what is raised is cleared at once.
- ``crowd`` over zones of several sources has source ``*`` and no zone; over several zones of one source, that source.

Time goes by what is observed. Where that goes back by more than jitter, because a clock was put right or a recording was sent
once more, a rule begins anew: what is raised is cleared at the last time there was, the cooldown goes on for what is left of
it, and alerts from there on have other ids, as they may be raised at the same time as one before. A rule over several sources
does so when the latest time of any of them has gone back.

Conditions are judged whenever something is observed of a source, and when time passes without it (``advance``), with
what was observed last.

Rules may change on the way. One of the same name, type and target goes on where it stands, whatever else of it has changed;
the alerts of a rule or a target that is no more are cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from stream.events import AlertEvent, event_id, timestamp
from stream.evidence.address import links, public_root
from stream.evidence.settings import EvidenceConfig
from stream.frame import REWIND_S
from stream.observation import Observation
from stream.rules import (
    AlertRule,
    CrowdRule,
    IntrusionRule,
    LineRule,
    LoiteringRule,
    Schedule,
    SourceOfflineRule,
    SourceRule,
    SourceTamperedRule,
)

UPDATE_INTERVAL_S = 1.0
MAX_TRACK_IDS = 100
"""An alert names no more tracks than this, those with the highest ids."""
CLOCK_BACK_S = 10.0  # states of sources are told by several hosts, whose clocks differ
TOLERANCE_S = 1e-6  # POSIX seconds as floats are exact to 0.24 us
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Phase = Literal["idle", "pending", "raised", "clearing"]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was observed last of a target; ``on`` raises, ``off`` clears, neither leaves things as they are."""

    value: float = 0.0
    on: bool = False
    off: bool = True
    track_ids: tuple[int, ...] | None = None


@dataclass(slots=True)
class _Memory:
    """State of one machine; JSON-able by ``asdict``.

    Attributes:
        t_s: when it was judged last.
        since_s: begin of the pending or the clearing phase.
        on_s: when the condition held last.
        raised_s: the last raise, for the cooldown and the alert's id.
        peak: highest value since the raise.
        sent, sent_s, sent_ids: ``peak``, time and tracks of the last event.
        crossings, crossed_ids: of a line, since it left idle.
        offline_s: since when the source is offline, or tampered with; None while it is not.
        era: how often time has begun anew.
        times: by source, its latest time.
    """

    phase: Phase = "idle"
    t_s: float = 0.0
    since_s: float = 0.0
    on_s: float = 0.0
    raised_s: float | None = None
    peak: float = 0.0
    sent: float = 0.0
    sent_s: float = 0.0
    sent_ids: tuple[int, ...] = ()
    crossings: int = 0
    crossed_ids: tuple[int, ...] = ()
    offline_s: float | None = None
    era: int = 0
    times: dict[str, float] = field(default_factory=dict)


class _Machine:
    """One rule on one target."""

    def __init__(self, rule: AlertRule, source_id: str, target: str, zone: str | None = None, line: str | None = None):
        self.rule, self.source_id, self.target, self.zone, self.line = rule, source_id, target, zone, line
        self.memory = _Memory()
        self.reading = _Reading()
        self.last: AlertEvent | None = None
        self.evidence_root: str | None = None
        self._timezone = ZoneInfo(rule.schedule.timezone) if rule.schedule else None

    @property
    def raised(self) -> bool:
        return self.memory.phase in ("raised", "clearing")

    @property
    def threshold(self) -> float:
        match self.rule:
            case CrowdRule():
                return self.rule.above
            case LoiteringRule():
                return self.rule.dwell_s
            case SourceRule():
                return self.rule.for_s
        return 1

    def reach(self, source_id: str, t_s: float) -> list[AlertEvent]:
        """Time has come to ``t_s`` for this source (a bit before the last counts as that); what clears the alert where it has
        gone back."""
        m = self.memory
        m.times[source_id] = t_s
        latest_s, cleared = max(m.times.values()), list[AlertEvent]()
        back_s = m.t_s - latest_s
        if back_s > (CLOCK_BACK_S if isinstance(self.rule, SourceRule) else REWIND_S):
            cleared = [self._event("cleared", m.t_s)] if self.raised else []
            self._reset()
            m = self.memory
            m.t_s, m.era = latest_s, m.era + 1
            m.raised_s = None if m.raised_s is None else m.raised_s - back_s
            m.offline_s = None if m.offline_s is None else m.offline_s - back_s
        m.t_s = max(m.t_s, latest_s)
        return cleared

    def judge(self) -> list[AlertEvent]:
        """Judge the present reading at the time reached and say what changed."""
        m, reading = self.memory, self.reading
        t_s = m.t_s
        if m.offline_s is not None:
            self.reading = reading = _Reading(t_s - m.offline_s, on=True, off=False)
        if self.rule.schedule and self._timezone and not _active(self.rule.schedule, self._timezone, t_s):
            cleared = [self._event("cleared", t_s)] if self.raised else []
            self._reset()
            return cleared
        if reading.on:
            m.on_s = t_s
        return self._judge_raised(t_s) if self.raised else self._judge_idle(t_s)

    def _judge_idle(self, t_s: float) -> list[AlertEvent]:
        m, rule, is_line = self.memory, self.rule, isinstance(self.rule, LineRule)
        # A crossing that waits for the cooldown holds for as long as it would keep an alert raised.
        waits = is_line and m.phase == "pending" and t_s - m.on_s < rule.clear_for_s - TOLERANCE_S
        if not (self.reading.on or waits):
            self._reset()
            return []
        if m.phase == "idle":
            m.phase, m.since_s = "pending", t_s
        held = is_line or t_s - m.since_s >= rule.for_s - TOLERANCE_S
        cool = m.raised_s is None or t_s - m.raised_s >= rule.cooldown_s - TOLERANCE_S
        if not (held and cool):
            return []
        m.phase, m.raised_s = "raised", t_s
        m.peak = self.reading.value
        return [self._event("raised", t_s)]

    def _judge_raised(self, t_s: float) -> list[AlertEvent]:
        m, reading = self.memory, self.reading
        if not reading.off:
            m.phase = "raised"
        elif m.phase == "raised":
            m.phase, m.since_s = "clearing", m.on_s if isinstance(self.rule, LineRule) else t_s
        if m.phase == "clearing" and t_s - m.since_s >= self.rule.clear_for_s - TOLERANCE_S:
            event = self._event("cleared", t_s)
            self._reset()
            return [event]
        m.peak = max(m.peak, reading.value)
        if m.phase == "raised" and self._has_news() and t_s - m.sent_s >= UPDATE_INTERVAL_S - TOLERANCE_S:
            return [self._event("updated", t_s)]
        return []

    def _has_news(self) -> bool:
        m = self.memory
        match self.rule:
            case SourceRule():
                return False  # its value grows with time and is told when it is over
            case LoiteringRule(dwell_s=dwell_s):
                return m.peak >= m.sent + dwell_s or not set(self.reading.track_ids or ()) <= set(m.sent_ids)
        return m.peak > m.sent

    def _reset(self) -> None:
        """Back to idle; only the cooldown and what is known of the source outlive an alert."""
        m = self.memory
        self.memory = _Memory(t_s=m.t_s, raised_s=m.raised_s, offline_s=m.offline_s, era=m.era, times=m.times)
        self.last = None

    def _event(self, state: Literal["raised", "updated", "cleared"], t_s: float) -> AlertEvent:
        m, reading = self.memory, self.reading
        assert m.raised_s is not None
        at, raised_at = timestamp(t_s), timestamp(m.raised_s)
        alert_id = event_id("alert", self.rule.name, self.target, round(m.raised_s * 1e6), *([m.era] if m.era else []))
        value = m.peak if state == "updated" else reading.value
        self.last = AlertEvent(
            event_id=event_id(alert_id, state, round(t_s * 1e6)),
            source_id=self.source_id,
            alert_id=alert_id,
            rule=self.rule.name,
            type=self.rule.type,
            state=state,
            severity=self.rule.severity,
            zone=self.zone,
            line=self.line,
            value=value,
            threshold=self.threshold,
            raised_at=raised_at,
            at=at,
            track_ids=None if reading.track_ids is None else list(reading.track_ids),
            evidence=links(self.evidence_root, self.rule.evidence, self.source_id, raised_at, alert_id)
            if self.evidence_root and self.rule.evidence
            else None,
        )
        m.sent, m.sent_s, m.sent_ids = m.peak, t_s, reading.track_ids or ()
        return self.last

    def observe(self, observation: Observation, occupancy: dict[str, int]) -> None:
        """Take the reading from an observation; ``occupancy`` holds the last count of every watched zone."""
        match self.rule:
            case CrowdRule(above=above, clear_below=clear_below):
                value = sum(occupancy.get(path, 0) for path in self.rule.zone_paths)
                self.reading = _Reading(value, value > above, value < (above + 1 if clear_below is None else clear_below))
            case IntrusionRule() if self.zone is not None:
                value = observation.occupancy[self.zone]
                self.reading = _Reading(value, value > 0, value == 0, _some(observation.dwell_s[self.zone]))
            case LoiteringRule(dwell_s=dwell_s) if self.zone is not None:
                dwells = observation.dwell_s[self.zone]
                longest = max(dwells.values(), default=0.0)
                on = longest >= dwell_s - TOLERANCE_S
                self.reading = _Reading(longest, on, not on, _some(i for i, d in dwells.items() if d >= dwell_s - TOLERANCE_S))
            case LineRule(direction=direction) if self.line is not None:
                wanted = [c.track_id for c in observation.crossings[self.line] if direction in ("any", c.direction)]
                self._count(wanted)

    def pass_time(self) -> None:
        """A crossing holds only at the moment at which it was observed; all else is as it was."""
        if isinstance(self.rule, LineRule):
            self._count([])

    def set_wrong(self, wrong: bool) -> None:
        """Take the reading of a rule about a source itself."""
        m = self.memory
        if wrong and m.offline_s is None:
            m.offline_s = m.t_s
        elif not wrong and m.offline_s is not None:
            self.reading = _Reading(m.t_s - m.offline_s)
            m.offline_s = None

    def state(self) -> dict[str, Any]:
        return {
            "rule": self.rule.name,
            "type": self.rule.type,
            "source_id": self.source_id,
            "target": self.target,
            "memory": asdict(self.memory),
            "reading": asdict(self.reading),
            "last": self.last and self.last.model_dump(mode="json"),
        }

    def end(self, t_s: float) -> list[AlertEvent]:
        """Nobody watches this target any more: back to idle, with what clears the alert."""
        t_s = max(t_s, self.memory.t_s)
        cleared = [self._event("cleared", t_s)] if self.raised else []
        self.memory = _Memory(t_s=t_s, raised_s=self.memory.raised_s, era=self.memory.era)
        self.reading, self.last = _Reading(), None
        return cleared

    def go_on_for(self, other: _Machine) -> None:
        """Take the place of another one on the same target."""
        self.memory, self.reading, self.last = other.memory, other.reading, other.last

    def restore(self, state: dict[str, Any]) -> None:
        memory, reading = state["memory"], state["reading"]
        self.memory = _Memory(**memory | {name: tuple(memory[name]) for name in ("sent_ids", "crossed_ids")})
        self.memory.times = dict(self.memory.times)
        track_ids = reading["track_ids"]
        self.reading = _Reading(**reading | {"track_ids": None if track_ids is None else tuple(track_ids)})
        self.last = state["last"] and AlertEvent.model_validate(state["last"])

    def _count(self, crossed: Sequence[int]) -> None:
        m = self.memory
        m.crossings += len(crossed)
        m.crossed_ids = _some({*m.crossed_ids, *crossed})
        self.reading = _Reading(m.crossings, bool(crossed), not crossed, m.crossed_ids)


class AlertEngine:
    """All rules over any number of sources. Not thread-safe.

    A rule over several sources goes by the latest time seen of any of them.

    Args:
        rules: with different names.
        evidence: where the pictures and clips of those rules that ask for some are kept.
    """

    def __init__(self, rules: Sequence[AlertRule], evidence: EvidenceConfig | None = None):
        self._evidence_root = public_root(evidence) if evidence is not None else None
        self._begin(rules)

    def _begin(self, rules: Sequence[AlertRule]) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._machines: dict[tuple[str, str, str], _Machine] = {}  # by name and type of the rule, and target
        self._of_source: dict[str, list[_Machine]] = {}  # in the order of the rules
        self._occupancy: dict[str, int] = {}  # last count of every zone that some crowd rule watches
        for rule in rules:
            match rule:
                case CrowdRule(zone_paths=paths):
                    sources = list(dict.fromkeys(path.partition("/")[0] for path in paths))
                    zone = paths[0].partition("/")[2] if len(paths) == 1 else None
                    self._add(_Machine(rule, sources[0] if len(sources) == 1 else "*", "+".join(paths), zone=zone), sources)
                    self._occupancy |= dict.fromkeys(paths, 0)
                case IntrusionRule(zone=path) | LoiteringRule(zone=path):
                    source_id, _, zone = path.partition("/")
                    self._add(_Machine(rule, source_id, path, zone=zone), [source_id])
                case LineRule(line=path):
                    source_id, _, line = path.partition("/")
                    self._add(_Machine(rule, source_id, path, line=line), [source_id])
                case SourceRule(source=source_id) if source_id != "*":
                    self._add(_Machine(rule, source_id, source_id), [source_id])

    def set_rules(self, rules: Sequence[AlertRule], t_s: float) -> list[AlertEvent]:
        """Judge by exactly these rules from ``t_s`` on; what clears the alerts of those that are no more."""
        if list(rules) == list(self._rules.values()):
            return []
        machines, occupancy = self._machines, self._occupancy
        self._begin(rules)
        self._occupancy |= {path: count for path, count in occupancy.items() if path in self._occupancy}
        events = []
        for key, machine in machines.items():
            successor = self._machine(*key)
            if successor is None:
                events += machine.end(t_s)
            else:
                successor.go_on_for(machine)
        return events

    def forget(self, source_id: str, t_s: float) -> list[AlertEvent]:
        """The source is gone: what clears the alerts that watched it."""
        for path in self._occupancy:
            if path.partition("/")[0] == source_id:
                self._occupancy[path] = 0
        events = []
        for machine in self._of_source.get(source_id, []):
            events += machine.end(t_s)
        any_source = {name for name, rule in self._rules.items() if isinstance(rule, SourceRule) and rule.source == "*"}
        for key in [key for key in self._machines if key[0] in any_source and key[2] == source_id]:
            self._of_source[source_id].remove(self._machines.pop(key))
        return events

    def observe(self, observation: Observation) -> list[AlertEvent]:
        """Judge all rules that watch the observation's source; what changed, in the order of the rules."""
        source_id, t_s = observation.source_id, observation.t_s
        for zone, count in observation.occupancy.items():
            if f"{source_id}/{zone}" in self._occupancy:
                self._occupancy[f"{source_id}/{zone}"] = count
        events = []
        for machine in self._of_source.get(source_id, ()):
            events += machine.reach(source_id, t_s)
            machine.observe(observation, self._occupancy)
            events += machine.judge()
        return events

    def source_state(self, source_id: str, online: bool, t_s: float, tampered: str = "") -> list[AlertEvent]:
        """At ``t_s`` a source is so, ``tampered`` being what is wrong with its view; saying so again changes nothing."""
        for rule in self._rules.values():
            if isinstance(rule, SourceRule) and rule.source == "*":
                self._any_source(rule, source_id)
        events = []
        for machine in self._of_source.get(source_id, ()):
            if isinstance(machine.rule, SourceRule):
                events += machine.reach(source_id, t_s)
                machine.set_wrong(not online if isinstance(machine.rule, SourceOfflineRule) else tampered != "")
                events += machine.judge()
        return events

    def advance(self, source_id: str, t_s: float) -> list[AlertEvent]:
        """Time has come to ``t_s`` for a source without anything observed: judge its rules by what was observed last.

        To be called now and then for a source that is silent; else its hold times do not run out.
        """
        events = []
        for machine in self._of_source.get(source_id, ()):
            events += machine.reach(source_id, t_s)
            machine.pass_time()
            events += machine.judge()
        return events

    def active(self) -> list[AlertEvent]:
        """The last event of every alert that is raised now."""
        return [machine.last for machine in self._machines.values() if machine.raised and machine.last]

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON types; floats survive exactly."""
        return {"occupancy": dict(self._occupancy), "machines": [machine.state() for machine in self._machines.values()]}

    def restore(self, state: dict[str, Any], t_s: float) -> list[AlertEvent]:
        """Go on at ``t_s`` where the engine that wrote ``state`` stood; what clears the alerts of rules and targets that are
        no more."""
        self._occupancy |= {path: count for path, count in state["occupancy"].items() if path in self._occupancy}
        events = []
        for one in state["machines"]:
            last = one["last"] and AlertEvent.model_validate(one["last"])
            machine = self._machine(one["rule"], one.get("type"), one["target"])
            if machine is not None:
                machine.restore(one)
            elif last and one["memory"]["phase"] in ("raised", "clearing"):
                events.append(_cleared(last, max(t_s, one["memory"]["t_s"])))
        return events

    def _machine(self, rule_name: str, kind: str | None, target: str) -> _Machine | None:
        """The machine of a rule of that name and type (None: any) on that target; made where a rule for any source has none."""
        rule = self._rules.get(rule_name)
        if rule is None or kind not in (None, rule.type):
            return None
        if isinstance(rule, SourceRule) and rule.source == "*":
            self._any_source(rule, target)
        return self._machines.get((rule_name, rule.type, target))

    def _any_source(self, rule: SourceOfflineRule | SourceTamperedRule, source_id: str) -> None:
        """Let a rule for any source watch this one too."""
        if (rule.name, rule.type, source_id) not in self._machines:
            self._add(_Machine(rule, source_id, source_id), [source_id])

    def _add(self, machine: _Machine, source_ids: Sequence[str]) -> None:
        machine.evidence_root = self._evidence_root
        self._machines[machine.rule.name, machine.rule.type, machine.target] = machine
        order = {name: i for i, name in enumerate(self._rules)}
        for source_id in source_ids:
            machines = self._of_source.setdefault(source_id, [])
            machines.append(machine)
            machines.sort(key=lambda m: order[m.rule.name])


def _cleared(last: AlertEvent, t_s: float) -> AlertEvent:
    """What clears the alert whose last event this is, without the rule that raised it."""
    identity = event_id(last.alert_id, "cleared", round(t_s * 1e6))
    return last.model_copy(update={"event_id": identity, "state": "cleared", "at": timestamp(t_s)})


def _some(track_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(track_ids)[-MAX_TRACK_IDS:])


def _active(schedule: Schedule, timezone: ZoneInfo, t_s: float) -> bool:
    """True within the schedule; a span over midnight belongs to the day on which it begins."""
    local = datetime.fromtimestamp(t_s, timezone)
    now, start, end = local.time(), schedule.start.replace(tzinfo=None), schedule.end.replace(tzinfo=None)
    today, yesterday = (DAYS[(local.weekday() - back) % 7] in schedule.days for back in (0, 1))
    if start < end:
        return today and start <= now < end
    return (today and start <= now) or (yesterday and now < end)
