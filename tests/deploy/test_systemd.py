"""deploy/systemd: the units are in order, and gateway and engine work in their sandbox."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from reverie.settings import ServerSettings
from tests.deploy.sandbox import directives
from tests.deploy.service_manager import PATIENCE, service

pytestmark = pytest.mark.integration

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICE = UNITS / "reverie.service"
SANDBOX = [sys.executable, str(Path(__file__).with_name("sandbox.py")), str(SERVICE)]
EXPOSURE = 1.5
"""Of 10. docs/deploy.md says what it is by Debian's version; others weigh a little differently."""
_PROBE = """
import mmap, os, socket
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
print([refused(one) for one in (
    lambda: socket.socket(socket.AF_UNIX).close(),
    lambda: mmap.mmap(-1, 4096).close(),
    lambda: socket.socket(socket.AF_NETLINK),
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: os.chown(".", os.getuid(), os.getgid()),
    lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
)])
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    copies = []
    for unit in (SERVICE, UNITS / "reverie.socket"):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/reverie/bin/reverie", "/bin/true"))
        copies.append(str(copy))
    verified = run("systemd-analyze", "verify", "--man=no", *copies)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_the_sandbox_leaves_little_exposed() -> None:
    analyzed = run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={EXPOSURE * 10:.0f}", str(SERVICE)),
    )
    assert analyzed.returncode == 0, analyzed.stdout


def test_a_stop_has_the_time_that_a_drain_takes() -> None:
    [timeout] = directives(SERVICE)["TimeoutStopSec"]
    assert int(timeout) >= ServerSettings().drain_timeout + 15


def test_the_command_has_the_services_user_folders_configuration_and_secrets(
    tmp_path: Path,
) -> None:
    written = directives(SERVICE)
    (tmp_path / "lib/reverie").mkdir(parents=True)
    (tmp_path / "environment").write_text("# a comment\nPGPASSWORD=of-the-database\n")
    script = (UNITS / "reverie.sh").read_text()
    for folder, here in (("/etc/reverie", "."), ("/var/lib", "lib"), ("/var/cache", "cache")):
        script = script.replace(folder, str(tmp_path / here))
    for name, does in (("id", "echo 0"), ("setpriv", 'echo "$@"; pwd; umask; env')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    told = subprocess.run(
        ["sh", "-c", script, "reverie", "keys", "create", "--name", "a b"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout.splitlines()

    [user], [command] = written["User"], written["ExecStart"]
    program, _, config = command.partition(" serve --config ")
    assert told[0] == (
        f"--reuid={user} --regid={user} --init-groups -- {program} keys create --name a b"
    )
    assert told[1:3] == [str(tmp_path / "lib/reverie"), written["UMask"][0]]
    assert f"REVERIE_CONFIG={config.replace('/etc/reverie', str(tmp_path))}" in told
    assert "PGPASSWORD=of-the-database" in told
    for assignment in written["Environment"][0].split():
        value = assignment.replace("%S", f"{tmp_path}/lib").replace("%C", f"{tmp_path}/cache")
        assert value in told


def test_the_command_says_that_it_wants_root(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    refused = subprocess.run(
        ["sh", str(UNITS / "reverie.sh"), "keys", "list"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert refused.returncode == 1
    assert "sudo reverie keys list" in refused.stderr


def test_the_sandbox_refuses_what_a_gateway_has_no_use_for() -> None:
    probed = run(*SANDBOX, sys.executable, "-c", _PROBE)
    assert probed.stdout.strip() == str([False, False, True, True, True, True])


@pytest.mark.real
def test_the_gateway_and_its_engine_work_in_the_sandbox(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/llm"
        (tmp_path / "reverie.toml").write_text(
            '[[models]]\nname = "m"\nsource = "smollm2-135m"\ncontext = 512\nslots = 1\n'
        )
        with service(tmp_path, [listener], within=SANDBOX) as running:
            running.until_told("READY=1")
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
            request = urllib.request.Request(url, json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                assert json.load(response)["usage"]["completion_tokens"] > 0
            assert running.end() == 0
            assert "Traceback" not in running.log
