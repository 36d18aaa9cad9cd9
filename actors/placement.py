"""Which actor gets which source: pure functions of what is wanted and what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from stream.rules import AlertRule, CrowdRule


def place(
    sources: Mapping[str, float], actors: Sequence[str], current: Mapping[str, str], late: Collection[str] = ()
) -> dict[str, str]:
    """Assign every source to an ingest actor.

    A source stays where it is while its actor is there, unless that actor carries more than the least loaded one by at
    least twice the source's load. New sources go to the least loaded actor, the heaviest first.

    Args:
        sources: load by source id, in any unit (analysed frames per second, say).
        actors: names of the ingest actors that are there.
        current: actor by source id, as placed before.
        late: ingest actors that do not answer but may be at work: they keep their sources, and get no others.

    Returns:
        Actor by source id, but for sources that there is no actor for.
    """
    kept = {source: actor for source, actor in current.items() if source in sources and actor in late}
    if not actors:
        return kept
    sources = {source: load for source, load in sources.items() if source not in kept}
    placed = {source: actor for source, actor in current.items() if source in sources and actor in actors}
    loads = dict.fromkeys(actors, 0.0)
    for source, actor in placed.items():
        loads[actor] += sources[source]
    for source in sorted(sources.keys() - placed.keys(), key=lambda s: (-sources[s], s)):
        actor = min(actors, key=lambda a: (loads[a], actors.index(a)))
        placed[source] = actor
        loads[actor] += sources[source]
    for source in sorted(placed, key=lambda s: (sources[s], s)):
        here, there = placed[source], min(actors, key=lambda a: (loads[a], actors.index(a)))
        if loads[here] - loads[there] >= 2 * sources[source]:  # evens out at least by half: worth a reconnect
            placed[source] = there
            loads[here] -= sources[source]
            loads[there] += sources[source]
    return placed | kept


def shards(rules: Sequence[AlertRule], source_ids: Collection[str], count: int) -> dict[str, int]:
    """Aggregator index by source id: a stable hash, with sources that one rule joins kept together."""
    leader = {source_id: source_id for source_id in source_ids}

    def find(source_id: str) -> str:
        while leader[source_id] != source_id:
            source_id = leader[source_id]
        return source_id

    for rule in rules:
        if isinstance(rule, CrowdRule):
            joined = [path.split("/", 1)[0] for path in rule.zone_paths]
            known = [find(source_id) for source_id in joined if source_id in leader]
            for source_id in known:
                leader[find(source_id)] = min(known)
    return {source_id: shard_of(find(source_id), count) for source_id in leader}


def shard_of(source_id: str, count: int) -> int:
    """A stable hash of ``source_id``, 0 to ``count`` - 1."""
    return int.from_bytes(hashlib.blake2b(source_id.encode(), digest_size=8).digest(), "big") % count
