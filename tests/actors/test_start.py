"""How the service is started and stopped: ``framewatch up`` as a command, ``serve deploy`` on a running cluster."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml

from actors.overview import REPLICAS_EVERY_S
from actors.reconcile import RECONCILE_S
from stream.models.registry import read_registry
from tests.conftest import ROOT
from tests.golden.scenario import CLIP
from tests.support import service as ray_service
from tests.support.kafka_broker import certificates, free_port
from tests.support.media import camera_clip

pytestmark = pytest.mark.ray
FASTESTDET, SIMULATED_PERSON = (
    f"people@sha256:{read_registry().entries[name].sha256[:12]}" for name in ("fastestdet", "simulated-person")
)
BIN = Path(sys.executable).parent
NO_TOKEN = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def config_path(shared: Path, tmp_path: Path) -> Path:
    """A config with one camera that never ends, on a port of its own."""
    camera_clip(shared / CLIP, tmp_path / "camera.mp4", 24, 5)
    config = {
        "detectors": {"people": {"model": str(shared / "data/models/FastestDet.onnx"), "threads": 1}},
        "sources": [{"id": "hall", "uri": "camera.mp4", "realtime": True, "loop": True, "fps": 5}],
        "sinks": [{"type": "jsonl", "path": "events.jsonl"}],
        "service": {"port": free_port(), "state_dir": "state", "access": {"enabled": False}},
        "slo": {"latency_ms": 2000},
    }
    path = tmp_path / "framewatch.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def start(config_path: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(*options)`` runs ``framewatch up`` with the config."""
    started: list[subprocess.Popen[str]] = []

    def run(*options: str, environment: Mapping[str, str] = NO_TOKEN) -> subprocess.Popen[str]:
        command = [BIN / "framewatch", "up", "-c", config_path, "--no-dashboard", *options]
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> set[psutil.Process]:
    """The processes that a command has started, by themselves and further down."""
    return set(psutil.Process(process.pid).children(recursive=True))


def assert_ended(processes: set[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(list(processes), timeout=10)
    assert [process.cmdline() for process in alive] == []


def events(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "events.jsonl"
    return ray_service.jsonl(path) if path.exists() else []


def test_up_for_some_seconds_on_a_running_cluster(
    start: Callable[..., subprocess.Popen[str]], cluster: ray_service.Cluster, config_path: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load(config_path.read_text())
    config["service"]["port"] = cluster.port
    config_path.write_text(yaml.safe_dump(config))
    process = start("--for", "5", "--address", ray.get_runtime_context().gcs_address, environment=os.environ)
    ray_service.wait_for(lambda: events(tmp_path), 90, "events")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert f"framewatch is up: http://127.0.0.1:{cluster.port}" in told
    assert "Traceback" not in told
    assert not ray.util.list_named_actors(), "its actors have ended"


def test_up_ends_on_a_signal(start: Callable[..., subprocess.Popen[str]], config_path: Path, tmp_path: Path) -> None:
    """Over HTTPS, with a token of its own. Ctrl-C ends it in the same way; see ``test_capacity``."""
    config = yaml.safe_load(config_path.read_text())
    made = certificates(tmp_path / "tls", names=("ca",))
    config["service"] |= {"access": {}, "tls": {"certfile": str(made["cert"]), "keyfile": str(made["key"])}}
    config_path.write_text(yaml.safe_dump(config))
    context = ssl.create_default_context(cafile=str(made["ca"]))
    url = f"https://127.0.0.1:{config['service']['port']}"
    process = start()
    ray_service.wait_for(lambda: answers(f"{url}/readyz", context), 90, "readiness")
    ray_service.wait_for(lambda: len(events(tmp_path)) >= 10, 30, "events")
    token = (tmp_path / "state" / "token").read_text().strip()
    request = urllib.request.Request(f"{url}/v1/sources", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=5, context=context) as answer:
        assert json.loads(answer.read())[0]["status"]["state"] == "online"
    spawned = children(process)
    assert len(spawned) > 5
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "framewatch has stopped" in told
    assert "Traceback" not in told
    assert_ended(spawned)


CLUSTER = """
import sys
import ray
from ray import serve
dashboard, http = map(int, sys.argv[1:])
ray.init("local", num_cpus=8, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=dashboard, log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": http})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def dashboard(config_path: Path) -> Iterator[str]:
    """Address of the dashboard of a Ray cluster that somebody else runs, in whose environment the config is named. Its
    Serve listens on loopback."""
    port, http = free_port(), yaml.safe_load(config_path.read_text())["service"]["port"]
    command = [sys.executable, "-c", CLUSTER, str(port), str(http)]
    environment = NO_TOKEN | {"FRAMEWATCH_CONFIG": str(config_path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        assert cluster.stdin is not None
        try:
            assert cluster.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            spawned = children(cluster)
            cluster.stdin.close()
            cluster.wait(60)
            for process in psutil.wait_procs(list(spawned), timeout=10)[1]:
                process.kill()


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_serve_deploy_on_a_running_cluster(dashboard: str, config_path: Path, shared: Path, tmp_path: Path) -> None:
    """As in production: ``serve deploy serve_config.yaml``; another model under the same path; a mistake in the config."""
    config, model = yaml.safe_load(config_path.read_text()), tmp_path / "model.onnx"
    shutil.copy(shared / "data/models/FastestDet.onnx", model)
    config["detectors"]["people"]["model"] = model.name
    config_path.write_text(yaml.safe_dump(config))
    port, serve_api = config["service"]["port"], f"{dashboard}/api/serve/applications/"

    def deploy_again(revision: str) -> None:
        """What the command does, without the seconds that the command takes to begin."""
        serve_config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        serve_config["applications"][0]["args"]["revision"] = revision
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(serve_api, json.dumps(serve_config).encode(), headers, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    def frames(model_id: str) -> int:
        return sum(event["model"] == model_id for event in ray_service.of_schema(events(tmp_path), "tracks"))

    def application() -> Any:
        return read(serve_api)["applications"]["framewatch"]

    tool(tmp_path, "deploy", str(ROOT / "serve_config.yaml"), "--address", dashboard)
    ray_service.wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 90, "readiness")
    ray_service.wait_for(lambda: frames(FASTESTDET) >= 10, 60, "frames")

    shutil.copy(ROOT / "stream/models/bundled/simulated-person.onnx", model)
    deploy_again("2")
    ray_service.wait_for(lambda: frames(SIMULATED_PERSON) >= 10, 90, "frames of the other model")
    ray_service.wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 30, "readiness")
    assert read(f"http://127.0.0.1:{port}/v1/service")["detectors"]["people"]["model_id"] == SIMULATED_PERSON
    told = ray_service.of_schema(events(tmp_path), "tracks")
    assert [name for name, _ in groupby(told, lambda event: event["model"])] == [FASTESTDET, SIMULATED_PERSON]
    assert len({event["event_id"] for event in told}) == len(told)

    config["tracker"] = {"nonsense": 1}
    config_path.write_text(yaml.safe_dump(config))
    deploy_again("3")
    ray_service.wait_for(lambda: application()["status"] == "DEPLOY_FAILED", 60, "the refusal")
    assert "tracker.nonsense: unknown key" in application()["message"]
    time.sleep(REPLICAS_EVERY_S + 2 * RECONCILE_S)
    before = frames(SIMULATED_PERSON)
    assert answers(f"http://127.0.0.1:{port}/readyz"), "what goes on with the config of before is not ready"
    ray_service.wait_for(lambda: frames(SIMULATED_PERSON) >= before + 5, 30, "frames with the config of before")
    tool(tmp_path, "shutdown", "--yes", "--address", dashboard)


def read(url: str) -> Any:
    """The JSON that is answered."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def tool(folder: Path, *arguments: str) -> None:
    done = subprocess.run([BIN / "serve", *arguments], capture_output=True, text=True, cwd=folder, timeout=90, env=NO_TOKEN)
    assert done.returncode == 0, done.stdout + done.stderr
