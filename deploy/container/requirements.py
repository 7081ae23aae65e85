"""Prints what Reverie needs, from pyproject.toml, one requirement a line: requirements.py [EXTRAS]

So the image has a layer of these alone, which stays as it is while Reverie's sources change.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = list(project["dependencies"])
for extra in filter(None, sys.argv[1].split(",")):
    if extra not in project["optional-dependencies"]:
        known = ", ".join(project["optional-dependencies"])
        sys.exit(f"EXTRAS: there is no extra {extra!r}, only {known}")
    wanted += project["optional-dependencies"][extra]
sys.stdout.writelines(f"{one}\n" for one in wanted)
