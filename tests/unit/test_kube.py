"""The manifests, the image, the compose file and the example configs: checked against schemas and against each other."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from actors.cluster import CLUSTER_SETTINGS
from stream.config_file import load_config
from stream.errors import ConfigError
from stream.families import FAMILIES, PROCESS
from tests.conftest import ROOT

KUBE = ROOT / "kube"
KUBERNETES = "1.34"
SECRET = "one-of-sixteen-characters"
PLAIN = ["storage.yaml", "network.yaml", "kafka.yaml", "secret.example.yaml"]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
VARIABLE = re.compile(r"\$\{(\w+)\}")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((KUBE / name).read_text()))


@pytest.fixture(scope="module")
def service() -> Any:
    return documents("rayservice.yaml")[0]


@pytest.fixture(scope="module")
def compose() -> Any:
    return documents("compose.yaml")[0]


def groups(service: Any) -> list[Any]:
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(service: Any) -> list[Any]:
    return [group["template"]["spec"] for group in groups(service)]


def container_port(pod: Any, name: str) -> int:
    ports: dict[str, int] = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    return ports[name]


def environment_for(path: Path) -> dict[str, str]:
    without_comments = json.dumps(yaml.safe_load(path.read_text()))
    return dict.fromkeys(VARIABLE.findall(without_comments), SECRET)


def errors_of(service: Any, schema: Any) -> list[str]:
    return [
        f"{'.'.join(map(str, error.path))}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(service)
    ]


def test_rayservice_has_kuberays_schema(service: Any, shared: Path) -> None:
    schema = json.loads((shared / "data/kube/rayservice.v1.schema.json").read_text())
    assert errors_of(service, schema) == []
    service = json.loads(json.dumps(service))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["groupNmae"] = "cpu"
    assert errors_of(service, schema) != []


def test_pods_of_the_rayservice_have_kubernetes_schema(service: Any) -> None:
    for pod in pods(service):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}, KUBERNETES, strict=True
        )


@pytest.mark.parametrize("name", PLAIN)
def test_plain_objects_have_kubernetes_schema(name: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found() -> None:
    claim = documents("storage.yaml")[0]
    claim["spec"]["accesModes"] = claim["spec"].pop("accessModes")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(claim, KUBERNETES, strict=True)


def test_serve_config_of_the_rayservice_is_serve_config_yaml(service: Any) -> None:
    assert service["spec"]["serveConfigV2"] == (ROOT / "serve_config.yaml").read_text(), "run `make kube`"


def test_pods_have_the_settings_of_a_cluster_of_our_own(service: Any) -> None:
    for pod in pods(service):
        environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        assert {name: environment.get(name) for name in CLUSTER_SETTINGS} == CLUSTER_SETTINGS


def test_render_replaces_the_block_and_nothing_else() -> None:
    spec = importlib.util.spec_from_file_location("render", KUBE / "render.py")
    assert spec is not None
    assert spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    manifest = "spec:\n  serveConfigV2: |\n    old: 1\n\n    older: 2\n  after: true\n"
    assert render.render(manifest, "new: 1\n\nb: 2\n") == "spec:\n  serveConfigV2: |\n    new: 1\n\n    b: 2\n  after: true\n"
    with pytest.raises(ValueError, match="serveConfigV2"):
        render.render("spec: {}\n", "new: 1\n")


def test_worker_groups_for_cpu_and_gpu(service: Any) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(workers) == {"cpu", "gpu"}
    assert workers["gpu"]["minReplicas"] == 0
    assert workers["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in workers["cpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_ray_version_is_the_images(service: Any) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == pinned["ray"]


def test_images_have_the_projects_version(service: Any, compose: Any) -> None:
    images = [pod["containers"][0]["image"] for pod in pods(service)] + [compose["services"]["framewatch"]["image"]]
    assert {image.split(":")[1] for image in images} == {PROJECT["version"]}
    kustomized = documents("kustomization.yaml")[0]["images"]
    assert {entry["name"] for entry in kustomized} == {image.split(":")[0] for image in images}
    assert {entry["newTag"] for entry in kustomized} == {PROJECT["version"]}


def test_the_broker_is_the_same_version_everywhere(compose: Any) -> None:
    broker = next(document for document in documents("kafka.yaml") if document["kind"] == "StatefulSet")
    assert broker["spec"]["template"]["spec"]["containers"][0]["image"] == compose["services"]["kafka"]["image"]


def test_no_pod_runs_as_root_or_can_become_it(service: Any) -> None:
    broker = next(document for document in documents("kafka.yaml") if document["kind"] == "StatefulSet")
    for pod in [*pods(service), broker["spec"]["template"]["spec"]]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] for pod in pods(service))


def test_mounts_have_volumes_and_volumes_have_sources(service: Any) -> None:
    kustomization = documents("kustomization.yaml")[0]
    config_maps = {entry["name"]: entry["files"] for entry in kustomization["configMapGenerator"]}
    claims = {document["metadata"]["name"] for document in documents("storage.yaml")}
    for pod in pods(service):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/var/lib/framewatch"]["persistentVolumeClaim"]["claimName"] in claims
        files = config_maps[mounts["/etc/framewatch"]["configMap"]["name"]]
        environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        folder, _, name = environment["FRAMEWATCH_CONFIG"].rpartition("/")
        assert (folder, name) == ("/etc/framewatch", files[0])


def test_kustomization_names_files_that_exist() -> None:
    kustomization = documents("kustomization.yaml")[0]
    for name in kustomization["resources"] + kustomization["configMapGenerator"][0]["files"]:
        assert (KUBE / name).is_file(), name
    assert "secret.example.yaml" not in kustomization["resources"]


def test_ports_agree(service: Any, compose: Any) -> None:
    port = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["http_options"]["port"]
    assert {container_port(pod, "serve") for pod in pods(service)} == {port}
    config = load_config(KUBE / "framewatch.yaml", environment_for(KUBE / "framewatch.yaml"))
    assert config.service.port == port
    assert compose["services"]["framewatch"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f":{port}/-/healthz" in compose["services"]["framewatch"]["healthcheck"]["test"][-1]
    assert f"EXPOSE {port}" in (KUBE / "Dockerfile").read_text().splitlines()
    ray_policy = documents("network.yaml")[0]
    opened = {entry["port"] for rule in ray_policy["spec"]["ingress"] for entry in rule.get("ports", [])}
    assert opened == {port, container_port(pods(service)[0], "dashboard"), container_port(pods(service)[0], "metrics")}


def test_the_configs_broker_is_the_one_beside_it(compose: Any) -> None:
    config = load_config(KUBE / "framewatch.yaml", environment_for(KUBE / "framewatch.yaml"))
    (sink,) = config.sinks
    assert sink.type == "kafka"
    kafka_service = next(document for document in documents("kafka.yaml") if document["kind"] == "Service")
    assert sink.bootstrap_servers == [f"{kafka_service['metadata']['name']}:{kafka_service['spec']['ports'][0]['port']}"]
    assert f"PLAINTEXT://{sink.bootstrap_servers[0]}" in compose["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_every_variable_of_the_config_is_provided(service: Any, compose: Any) -> None:
    wanted = set(environment_for(KUBE / "framewatch.yaml"))
    assert wanted
    secret = documents("secret.example.yaml")[0]
    assert wanted == set(secret["stringData"])
    assert all(pod["containers"][0]["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}] for pod in pods(service))
    assert wanted <= set(compose["services"]["framewatch"]["environment"])


def test_state_and_config_lie_where_they_are_mounted(compose: Any) -> None:
    config = load_config(KUBE / "framewatch.yaml", environment_for(KUBE / "framewatch.yaml"))
    volumes = [re.sub(r"\$\{[^}]*\}", "HOST", volume) for volume in compose["services"]["framewatch"]["volumes"]]
    targets = [volume.split(":")[1] for volume in volumes]
    assert str(config.service.state_dir) in targets
    assert str(Path(config.detectors["people"].model).parent) in targets
    assert compose["services"]["framewatch"]["command"][-1] in targets


def test_compose_publishes_on_loopback_only(compose: Any) -> None:
    for name, part in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in part.get("ports", [])), name
        assert part["healthcheck"]["test"][0] == "CMD"
    assert compose["services"]["framewatch"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    build = compose["services"]["framewatch"]["build"]
    assert (KUBE / build["context"] / build["dockerfile"]).resolve() == KUBE / "Dockerfile"


def instructions(text: str | None = None) -> list[list[str]]:
    """Those of a Dockerfile (None: the image's)."""
    if text is None:
        text = (KUBE / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [shlex.split(line, posix=False) for line in lines if line and not line.startswith("#")]


def copied(dockerfile: list[list[str]]) -> list[str]:
    """What a Dockerfile takes out of its context."""
    return [source for words in dockerfile if words[0] == "COPY" and not words[1].startswith("--from") for source in words[1:-1]]


def sent_to_docker() -> set[str]:
    """What of the repository is in the context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


def test_dockerfile_copies_files_that_exist_and_are_in_its_context() -> None:
    sources = copied(instructions())
    assert {"pyproject.toml", "stream", "actors"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in sent_to_docker(), f"{source} is not in .dockerignore's list"


def test_commands_that_are_told_copy_nothing_that_dockerignore_leaves_out() -> None:
    texts = [path.read_text() for path in (ROOT / "README.md", KUBE / "README.md", *(ROOT / "docs").rglob("*.md"))]
    commands = [shlex.split(line) for text in texts for line in text.splitlines() if re.search(r"^\s*[^`]*docker build ", line)]
    assert len(commands) >= 2
    for words in commands:
        file, context = words[words.index("-f") + 1], words[-1]
        text = words[words.index("printf") + 1].replace("\\n", "\n") if file == "-" else (ROOT / file).read_text()
        assert copied(instructions(text)), words
        if context == ".":  # the repository
            assert set(copied(instructions(text))) <= sent_to_docker(), words


def test_dockerfile_starts_the_console_script_as_a_user_without_rights() -> None:
    by_name = {words[0]: words[1:] for words in instructions()}
    (command,) = json.loads("".join(by_name["ENTRYPOINT"]))
    assert command in PROJECT["scripts"]
    assert by_name["USER"] == ["1000:1000"]


def test_dockerfile_knows_the_extra_that_its_comment_names() -> None:
    named = set(re.findall(r"EXTRAS=(\w+)", (KUBE / "Dockerfile").read_text()))
    assert named
    assert named <= set(PROJECT["optional-dependencies"])


def test_monitors_select_ports_and_labels_that_pods_have(service: Any) -> None:
    for monitor in documents("monitoring/monitors.yaml"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [group for group in groups(service) if wanted <= group["template"]["metadata"]["labels"].items()]
        assert chosen, monitor["metadata"]["name"]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(container_port(group["template"]["spec"], endpoint["port"]) for group in chosen)


@pytest.mark.parametrize("path", [KUBE / "framewatch.yaml", *EXAMPLES], ids=lambda path: path.name)
def test_configs_load(path: Path) -> None:
    environment = environment_for(path)
    config = load_config(path, environment)
    assert config.sources
    assert config.alerts
    for name in environment:
        with pytest.raises(ConfigError, match=name):
            load_config(path, {other: SECRET for other in environment if other != name})


def test_there_are_the_promised_examples() -> None:
    assert [path.stem for path in EXAMPLES] == ["four-cameras", "gpu", "hall", "kafka-input"]


def test_monitoring_is_complete() -> None:
    folder = KUBE / "monitoring"
    kustomization = documents("monitoring/kustomization.yaml")[0]
    [config_map] = kustomization["configMapGenerator"]
    for name in [*kustomization["resources"], *config_map["files"]]:
        assert (folder / name).is_file(), name
    assert config_map["options"]["labels"]["grafana_dashboard"] == "1"
    alerts = {
        rule["alert"] for group in documents("monitoring/rules.yaml")[0]["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert alerts == set(re.findall(r"`(Framewatch\w+)`", (KUBE / "README.md").read_text()))


def test_the_dashboard_has_a_row_for_each_question_and_a_choice_of_data_source() -> None:
    dashboard = json.loads((KUBE / "monitoring" / "dashboard.json").read_text())
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["SLO", "Sources", "Stages", "Drops", "Detectors", "Sinks", "Resources"]
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken)), "panels overlap"
    known = {family.full_name for family in FAMILIES} | {f"framewatch_{name}" for name in PROCESS}
    for panel in panels:
        for target in panel["targets"]:
            for name in re.findall(r"(?<![:\w])framewatch_[a-z_]+", target["expr"]):
                assert re.sub(r"_(total|bucket|sum|count|info)$", "", name) in known, name
