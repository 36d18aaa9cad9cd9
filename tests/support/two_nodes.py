"""A cluster of two simulated nodes, one of which dies: ``python -m tests.support.two_nodes SHARED FOLDER``.

Each node has a boot id of its own, so their processes take each other for ones of another host: no shared memory, no doors,
no common clock. Exits with 0 when the sources were spread over both nodes, were all read from the other after one had died, and
nothing was left at the end.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from actors import names
from actors.cluster import CLUSTER_SETTINGS
from actors.up import deploy, remove
from stream.config_file import parse_config
from tests.support.kafka_broker import free_port
from tests.support.service import Cluster, Service, wait_for

BOOT_ID = "TEST_BOOT_ID"
SITE = f"""
import os, pathlib

read_text = pathlib.Path.read_text

def patched(path, *args, **kwargs):
    return os.environ["{BOOT_ID}"] if path.name == "boot_id" else read_text(path, *args, **kwargs)

if "{BOOT_ID}" in os.environ:
    pathlib.Path.read_text = patched
"""
"""``sitecustomize``: Python imports it first, in every process that finds it."""
SOURCES = ("north", "south", "east", "west")


def node_of(actor: str) -> str | None:
    """Id of the node on which a named actor lives; None while it is not alive."""
    handle = ray.get_actor(actor, names.NAMESPACE)
    state = ray._private.state.actors(handle._actor_id.hex())
    return str(state["Address"]["NodeID"]) if state.get("State") == "ALIVE" else None


def by_object_store(metrics: str) -> set[str]:
    """The ingest actors that have sent batches by value."""
    return set(
        re.findall(r'^framewatch_batches_sent_total\{actor="(ingest-\d)",.*way="object_store"\} [1-9]', metrics, re.MULTILINE)
    )


def main() -> None:
    """The whole story."""
    shared, folder = map(Path, sys.argv[1:])
    (folder / "sitecustomize.py").write_text(SITE)
    os.environ |= CLUSTER_SETTINGS | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", BOOT_ID: "one"}
    head_args = {"num_cpus": 3, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head_args)
    try:
        # Room for an ingest actor, wherever Serve has put the replica.
        other = nodes.add_node(num_cpus=3, env_vars={BOOT_ID: "other"})
        ray.init(nodes.address, namespace=names.NAMESPACE, log_to_driver=False, logging_level="error")
        model = {"model": str(shared / "data/models/FastestDet.onnx"), "classes": ["person"], "threads": 1}
        port = free_port()
        config = {
            "detectors": {"people": model},
            "sources": [{"id": i, "uri": "camera.mp4", "realtime": True, "loop": True, "fps": 2} for i in SOURCES],
            "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
            "slo": {"latency_ms": 5000},
            "service": {"port": port, "state_dir": "state", "ingest_actors": 2, "access": {"enabled": False}},
        }
        control = deploy(parse_config(config, "two nodes", folder))
        service = Service(Cluster(port, folder))
        analysed = lambda: {i: service.analysed(i) for i in SOURCES}  # noqa: E731
        wait_for(lambda: all(n >= 3 for n in analysed().values()), 60, "frames of all sources")
        ingests = [names.ingest(0), names.ingest(1)]
        placed = {i: node_of(i) for i in ingests}
        assert set(placed.values()) == {nodes.head_node.node_id, other.node_id}, f"not on both nodes: {placed}"
        by_actor = [source["actor"] for source in service.sources().values()]
        assert sorted(by_actor) == [ingests[0], ingests[0], ingests[1], ingests[1]], by_actor
        sent = by_object_store(service.get("/metrics")[1])
        assert len(sent) == 1, f"the replica is on the host of one ingest actor, but images went by value from {sent or 'none'}"

        died_s = time.monotonic()
        nodes.remove_node(other, allow_graceful=False)
        wait_for(lambda: {node_of(i) for i in ingests} == {nodes.head_node.node_id}, 60, "both actors on the node that is left")
        wait_for(service.ready, 60, "readiness")
        before = analysed()
        wait_for(lambda: all(n >= before[i] + 4 for i, n in analysed().items()), 60, "further frames of all sources")
        print(json.dumps({"recovered_s": round(time.monotonic() - died_s, 1)}))
        remove(control)
        assert not ray.util.list_named_actors(), "actors are left"
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main()
