"""``deploy/kubernetes/``: valid by Kubernetes' schemas, and true of the program that it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from reverie.app import Application
from reverie.settings import Settings, load

FILE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "reverie.yaml"
TEXT = FILE.read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(TEXT))
CONTAINERFILE = (FILE.parents[1] / "container" / "Containerfile").read_text()


def only(kind: str) -> dict[str, Any]:
    [found] = [one for one in OBJECTS if one["kind"] == kind]
    return found


WORKLOAD = only("StatefulSet")["spec"]
POD = WORKLOAD["template"]["spec"]
[CONTAINER] = POD["containers"]
PROBES = {name: CONTAINER[name]["httpGet"] for name in CONTAINER if name.endswith("Probe")}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What the pods read."""
    config = tmp_path / "reverie.toml"
    config.write_text(only("ConfigMap")["data"]["reverie.toml"])
    return load(config, environ={"REVERIE_HOST": "0.0.0.0"})


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: one["kind"])
def test_each_object_is_what_its_schema_allows(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_each_object_is_in_the_namespace() -> None:
    name = only("Namespace")["metadata"]["name"]
    for one in OBJECTS:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == name


def test_what_is_commented_out_is_valid_yaml_of_the_namespace() -> None:
    # Prometheus' operator brings the schema of it.
    commented = "\n".join(re.findall(r"^# ?(.*)$", TEXT[TEXT.rindex("# ---") :], re.MULTILINE))
    [monitor] = yaml.safe_load_all(commented[commented.index("apiVersion") :])
    service = only("Service")
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_a_pod_has_no_more_rights_than_the_strictest_standard_allows() -> None:
    labels = only("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    of_pod, of_container = POD["securityContext"], CONTAINER["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container["allowPrivilegeEscalation"] is False
    assert of_container["readOnlyRootFilesystem"] is True
    assert of_container["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(POD)
    assert not any("hostPath" in volume for volume in POD["volumes"])
    assert POD["automountServiceAccountToken"] is False


def test_a_pod_runs_as_the_images_user_who_may_write_to_its_volume() -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", CONTAINERFILE, re.MULTILINE)
    context = POD["securityContext"]
    assert {context[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}


def test_what_is_written_goes_to_volumes() -> None:
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    names = {volume["name"] for volume in POD["volumes"]}
    names |= {claim["metadata"]["name"] for claim in WORKLOAD["volumeClaimTemplates"]}
    assert {mount["name"] for mount in mounts.values()} == names
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/data", "/tmp"}


async def test_probes_ask_routes_that_answer_everyone(settings: Settings) -> None:
    assert {name: probe["path"] for name, probe in PROBES.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    app = Application(
        settings.model_copy(
            update={"server": settings.server.model_copy(update={"api_keys_file": None})}
        ),
        environ={"REVERIE_API_KEYS": "a key"},
    )
    transport = httpx.ASGITransport(app, client=("10.1.2.3", 40000))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.4.5.6:8000") as client:
        for path in {probe["path"] for probe in PROBES.values()}:
            assert (await client.get(path)).status_code in (200, 503), path
        assert (await client.get("/v1/models")).status_code == 401


def test_ports_agree(settings: Settings) -> None:
    [port] = CONTAINER["ports"]
    assert port["containerPort"] == settings.server.port
    assert f"EXPOSE {settings.server.port}" in CONTAINERFILE
    assert {probe["port"] for probe in PROBES.values()} == {port["name"]}
    [served] = only("Service")["spec"]["ports"]
    assert served["targetPort"] == port["name"]
    [ingress] = only("NetworkPolicy")["spec"]["ingress"]
    assert [one["port"] for one in ingress["ports"]] == [port["name"]]


def test_selectors_find_the_pods() -> None:
    labels = WORKLOAD["template"]["metadata"]["labels"]
    assert WORKLOAD["selector"]["matchLabels"] == labels
    assert only("Service")["spec"]["selector"] == labels
    assert only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert only("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert WORKLOAD["serviceName"] == only("Service")["metadata"]["name"]
    [spread] = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_a_pod_has_the_time_to_drain(settings: Settings) -> None:
    _, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    to_cut = 5  # what is cut after the drain may still write its last chunk
    needed = int(seconds) + settings.server.drain_timeout + to_cut
    assert POD["terminationGracePeriodSeconds"] > needed


def test_several_replicas_share_a_store_and_one_may_always_go(settings: Settings) -> None:
    assert WORKLOAD["replicas"] > 1
    assert settings.store.url.startswith("postgresql://")
    assert only("PodDisruptionBudget")["spec"]["maxUnavailable"] < WORKLOAD["replicas"]


def test_variables_of_services_arent_taken_for_settings() -> None:
    """Kubernetes sets REVERIE_PORT to the Service's URL otherwise."""
    assert POD["enableServiceLinks"] is False
    assert f"{only('Service')['metadata']['name']}_PORT".upper() == "REVERIE_PORT"


def test_secrets_are_named_and_never_written(settings: Settings) -> None:
    assert not any(one["kind"] == "Secret" for one in OBJECTS)
    for variable in CONTAINER["env"]:
        assert set(variable) == {"name", "valueFrom"}
    assert ":" not in settings.store.url.removeprefix("postgresql://").partition("@")[0]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    [volume] = [volume for volume in POD["volumes"] if "secret" in volume]
    [item] = volume["secret"]["items"]
    where = Path(mounts[volume["name"]]) / item["path"]
    assert settings.server.api_keys_file == where


def test_the_secret_that_the_comment_makes_has_the_keys_that_are_read() -> None:
    made = set(re.findall(r"--from-\w+=([a-z-]+)=", TEXT))
    read = {variable["valueFrom"]["secretKeyRef"]["key"] for variable in CONTAINER["env"]}
    read |= {
        item["key"]
        for volume in POD["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    assert made == read
