"""``deploy/container/compose.yaml``: valid for its client, and true of what it starts."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reverie.gateway.accounts.authentication import static_keys
from reverie.settings import Settings, load
from tests.deploy.image import ROOT

pytestmark = pytest.mark.integration

FOLDER = ROOT / "deploy" / "container"
FILE = FOLDER / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONTAINERFILE = (FOLDER / "Containerfile").read_text()


@pytest.fixture
def settings() -> Settings:
    """What Reverie reads."""
    return load(FOLDER / "config" / "reverie.toml", environ={"REVERIE_HOST": "0.0.0.0"})


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What the script makes, in a copy of the folder."""
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    make_secrets(tmp_path)
    return tmp_path / "secrets"


def make_secrets(folder: Path) -> str:
    script = folder / "make-secrets.sh"
    return subprocess.run([script], capture_output=True, text=True, check=True).stdout


def mounts(service: str) -> dict[str, Path]:
    """Paths in a container → files and folders of the repository."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            found[target] = (FOLDER / source).resolve()
    return found


def test_its_client_takes_it() -> None:
    done = subprocess.run(
        ["docker-compose", "--file", str(FILE), "config"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_no_right_that_it_can_do_without(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & set(service)
    assert not any("docker.sock" in volume for volume in service["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_watched_and_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_only_reveries_port_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"reverie": ["127.0.0.1:8000:8000"]}
    assert COMPOSE["networks"]["back"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == SERVICES["prometheus"]["networks"] == ["back"]


def test_what_is_mounted_is_here() -> None:
    for service in SERVICES:
        for path in mounts(service).values():
            assert path.exists(), path


def test_images_are_of_named_versions() -> None:
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.fullmatch(r"docker\.io/\S+:v?\d[\w.-]+", service["image"]), name


def test_reverie_is_built_from_this_repository_and_checked_as_its_image_is() -> None:
    reverie = SERVICES["reverie"]
    assert (FOLDER / reverie["build"]["context"]).resolve() == ROOT
    assert (ROOT / reverie["build"]["dockerfile"]) == FOLDER / "Containerfile"
    [check] = re.findall(r"^HEALTHCHECK .*\n    CMD \[(.*)\]$", CONTAINERFILE, re.MULTILINE)
    assert reverie["healthcheck"]["test"] == ["CMD", *re.findall(r'"(.*?)"', check)]


def test_secrets_are_files_of_which_the_script_makes_each(secrets: Path) -> None:
    made = {file.name for file in secrets.iterdir()}
    assert {name: one["file"] for name, one in COMPOSE["secrets"].items()} == {
        name: f"./secrets/{name}" for name in made
    }
    used = {name for service in SERVICES.values() for name in service["secrets"]}
    assert used == made
    ignored = (FOLDER / ".gitignore").read_text().split()
    assert "secrets/" in ignored


def test_no_secret_is_in_a_variable() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            if re.search("PASSWORD|KEY|TOKEN|SECRET", name):
                assert name.endswith("_FILE"), name


def test_only_their_owner_reaches_the_secrets_here_and_any_container_reads_its_own(
    secrets: Path,
) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o444}


def test_the_script_leaves_what_is_there(secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    assert make_secrets(secrets.parent) == ""
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_reverie_takes_the_key_that_was_shown_and_the_one_of_prometheus(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "make-secrets.sh", tmp_path)
    shown = make_secrets(tmp_path).split()[-1]
    of_prometheus = (tmp_path / "secrets" / "metrics_key").read_text()
    keys = dict(static_keys({}, tmp_path / "secrets" / "api_keys"))
    assert keys == {
        hashlib.sha256(of_prometheus.encode()).digest(): "prometheus",
        hashlib.sha256(shown.encode()).digest(): "first",
    }
    kept = "".join(file.read_text() for file in (tmp_path / "secrets").iterdir())
    assert shown not in kept


def test_the_configuration_is_of_these_services(settings: Settings) -> None:
    assert settings.store.url == "postgresql://reverie@postgres/reverie"
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "reverie"
    assert settings.server.api_keys_file == Path("/run/secrets/api_keys")
    assert SERVICES["reverie"]["secrets"] == ["api_keys", "postgres_password"]
    assert SERVICES["reverie"]["ports"] == [f"127.0.0.1:8000:{settings.server.port}"]
    assert mounts("reverie") == {"/etc/reverie": FOLDER / "config"}
    [workdir] = re.findall(r"^WORKDIR (/etc/.*)$", CONTAINERFILE, re.MULTILINE)
    assert workdir == "/etc/reverie"


def test_reverie_has_the_time_to_drain(settings: Settings) -> None:
    grace = SERVICES["reverie"]["stop_grace_period"]
    to_cut = 5  # what is cut after the drain may still write its last chunk
    assert int(grace.removesuffix("s")) > settings.server.drain_timeout + to_cut


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = mounts("grafana")["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["grafana"]["networks"]) >= set(SERVICES["prometheus"]["networks"])
    [provider] = yaml.safe_load((provisioning / "dashboards" / "reverie.yaml").read_text())[
        "providers"
    ]
    folder = provider["options"]["path"]
    assert f"{folder}/reverie.json" in mounts("grafana")
