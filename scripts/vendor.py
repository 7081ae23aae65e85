"""``make vendor``: fetches the page's libraries again, as ``vendor.lock.json`` lists them.

Each package is fetched at its version with ``npm pack``, its archive is compared with the npm
checksum in the lock file, and the files that the page uses are compared with theirs and copied.
To take a newer version, change it in the lock file and run ``python scripts/vendor.py --lock``,
which writes the new checksums: look at what they stand for before you commit them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent.parent / "src" / "reverie" / "http" / "page" / "assets" / "vendor"
LOCK = VENDOR / "vendor.lock.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="write the checksums as they are now")
    renew = parser.parse_args().lock
    lock: dict[str, Any] = json.loads(LOCK.read_text())
    with tempfile.TemporaryDirectory() as folder:
        for package in lock["packages"]:
            _fetch(package, Path(folder), renew=renew)
    if renew:
        LOCK.write_text(json.dumps(lock, indent=2) + "\n")


def _fetch(package: dict[str, Any], folder: Path, *, renew: bool) -> None:
    name = f"{package['name']}@{package['version']}"
    packed = subprocess.run(
        ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True, check=True
    )
    archive = folder / packed.stdout.split()[-1]
    _compare(package, archive.read_bytes(), name, renew=renew)
    with tarfile.open(archive) as opened:
        for file in package["files"]:
            member = opened.extractfile(f"package/{file['from']}")
            if member is None:
                sys.exit(f"{name}: {file['from']} is no file")
            content = member.read()
            _compare(file, content, f"{name}: {file['from']}", renew=renew)
            target = VENDOR / file["to"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _compare(entry: dict[str, Any], content: bytes, what: str, *, renew: bool) -> None:
    found = hashlib.sha256(content).hexdigest()
    if renew:
        entry["sha256"] = found
    elif entry["sha256"] != found:
        sys.exit(f"{what} has the checksum {found}, not {entry['sha256']}: nothing more is copied")


if __name__ == "__main__":
    main()
