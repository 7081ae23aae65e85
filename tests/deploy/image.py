"""Builds ``deploy/container/Containerfile`` with buildah, and runs the image with runc.

No registry is needed: the base is a small root of Debian with its own Python. Neither is a daemon;
what is needed is root.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
_BASE = "localhost/base"
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_NOT_IN_BASE = ("man", "doc", "locale")
_OF_PIP = ("index-url", "extra-index-url", "cert", "client-cert", "proxy", "trusted-host")
"""What of this machine's configuration of pip says how a package index is reached."""
_CERTIFICATES = "/etc/ssl/certs"
REVISION = "0123456789abcdef0123456789abcdef01234567"
"""What the build is told that the commit is."""


@dataclass(frozen=True)
class Image:
    root: Path
    """Its files."""
    config: dict[str, Any]
    """What it says on how it is run."""
    base_size: int
    size: int
    """In bytes, unpacked."""


@contextmanager
def built() -> Iterator[Image]:
    """Builds the image, and removes all that it took in the end."""
    # Not pytest's folder: the paths of overlays would be too long there, and their mounts last.
    folder = Path(tempfile.mkdtemp(prefix="reverie-image-", dir="/var/tmp"))
    buildah = _Buildah(folder)
    try:
        _make_base(buildah, folder)
        buildah(
            "build", "--format=docker", "--layers=false", "--timestamp=0", "--tag=reverie",
            f"--build-arg=BASE={_BASE}", f"--build-arg=REVISION={REVISION}",
            "--file", str(ROOT / "deploy/container/Containerfile"),
            *_reaching_packages(folder), str(ROOT),
        )  # fmt: skip
        container = buildah("from", "--pull-never", "localhost/reverie")
        root = Path(buildah("mount", container))
        config = json.loads(buildah("inspect", "--type=image", "localhost/reverie"))["Docker"]
        base = Path(buildah("mount", buildah("from", "--pull-never", _BASE)))
        yield Image(root, config["config"], size_of(base), size_of(root))
    finally:
        buildah("umount", "--all", check=False)
        buildah("rm", "--all", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files below, as a registry would unpack them."""
    files = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in files}.values())


class _Buildah:
    """The program, with its images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        self._environ = os.environ | {"TMPDIR": str(folder), "BUILDAH_ISOLATION": "chroot"}
        store = [f"--root={folder}/store", f"--runroot={folder}/run"]
        self._command = ["buildah", *store, "--storage-driver=overlay"]
        if self._run("info").returncode != 0:  # the folder is on an overlay itself
            self._command[-1] = "--storage-driver=vfs"

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """The last line of what it printed."""
        done = self._run(*arguments)
        assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout if "inspect" in arguments else done.stdout.strip().rpartition("\n")[2]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _make_base(buildah: _Buildah, folder: Path) -> None:
    root = folder / "base"
    done = subprocess.run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=apt",
            f"--include={_BASE_PACKAGES}", "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_IN_BASE),
            platform.freedesktop_os_release()["VERSION_CODENAME"], str(root),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    container = buildah("from", "scratch")
    buildah("add", container, str(root), "/")
    buildah("commit", "--rm", container, _BASE)
    shutil.rmtree(root)


def _reaching_packages(folder: Path) -> Iterator[str]:
    """Options by which pip in the build reaches the index that it reaches here."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found = {}
    for line in reversed(listed.stdout.splitlines()):  # those of the environment come first
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in _OF_PIP and "file:" not in value:
            found[option] = ast.literal_eval(value)
    lines = ["[global]", *(f"{option} = {value}" for option, value in found.items())]
    file = folder / "pip.conf"
    file.write_text("\n".join(lines) + "\n")
    yield f"--secret=id=pip,src={file}"
    yield f"--volume={_CERTIFICATES}:{_CERTIFICATES}:ro"


class Container:
    """The image as a container: its root read-only, without any capability, and with two mounts
    that can be written to, ``/data`` and a small ``/tmp`` in memory. It shares this machine's
    network.

    Args:
        data: what is mounted at ``/data``.
        mounts: paths in the container → paths here. They are read-only.
        entrypoint: in place of the image's.
    """

    def __init__(
        self,
        image: Image,
        folder: Path,
        *arguments: str,
        data: Path,
        environ: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
        entrypoint: Sequence[str] | None = None,
    ) -> None:
        self._id = f"reverie-{uuid.uuid4().hex}"
        self._folder = folder / self._id
        self._folder.mkdir()
        user, group = map(int, image.config["User"].split(":"))
        os.chown(data, user, group)
        config = image.config
        process = {
            "terminal": False,
            "user": {"uid": user, "gid": group},
            "args": [*(entrypoint or config["Entrypoint"]), *(arguments or config["Cmd"])],
            "env": [
                *config["Env"],
                *(f"{name}={value}" for name, value in (environ or {}).items()),
            ],
            "cwd": config["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        }
        inside = [_bind("/data", data, "rw")]
        inside += [_bind(where, what, "ro") for where, what in (mounts or {}).items()]
        spec = {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(image.root), "readonly": True},
            "mounts": [*_SYSTEM_MOUNTS, *inside],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }
        (self._folder / "config.json").write_text(json.dumps(spec))

    def __enter__(self) -> Self:
        with (self._folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*self._runc, "run", "--bundle", str(self._folder), self._id],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._do("delete", "--force", self._id)
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        return (self._folder / "output").read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the container has written it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as ``docker exec`` does."""
        return self._do("exec", self._id, *command)

    def send_stop_signal(self) -> None:
        """What ``docker stop`` sends at first: to process 1 alone."""
        assert self._do("kill", self._id, "TERM").returncode == 0

    @property
    def pids(self) -> list[int]:
        """All of its processes, as they are called out here."""
        return list(json.loads(self._do("ps", "--format=json", self._id).stdout))

    @property
    def _runc(self) -> list[str]:
        return ["runc", "--root", str(self._folder / "runc")]

    def _do(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._runc, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _bind(where: str, what: Path, mode: str) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", mode]
    return {"destination": where, "source": str(what), "type": "bind", "options": options}


_SYSTEM_MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"],
    },
    {
        "destination": "/tmp",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=16m"],
    },
    _bind("/sys", Path("/sys"), "ro"),
]
