"""Whether the head answers this machine, its token and its versions. Imports Ray.

As a program (``python -m reverie.cluster.probe HOST:PORT``) it says so by JSON on standard output,
and can be killed where Ray waits for too long. It needs no other part of Ray on this machine.
"""

from __future__ import annotations

import os
import platform
import sys

import msgspec
from msgspec import Struct


class Found(Struct, frozen=True):
    """The cluster that answers, or why none does."""

    ray: str = ""
    python: str = ""
    machines: int = 0
    """Machines that are alive."""
    problem: str = ""
    """A sentence for the operator; empty if this machine may join."""


def probe(head: str) -> Found:
    """Ask the head at ``HOST:PORT``. May take long where nobody answers there."""
    import ray
    from ray._common.usage import usage_lib
    from ray._raylet import GcsClient
    from ray.exceptions import AuthenticationError

    try:
        client = GcsClient(address=head)
        about = usage_lib.get_cluster_metadata(client)
        nodes = client.get_all_node_info(timeout=5)
    except AuthenticationError:
        return Found(problem=wrong_token(head))
    except Exception as error:  # whatever Ray raises here
        return Found(problem=f"the head at {head} doesn't answer: {first_line(error)}")
    found = Found(
        about["ray_version"],
        about["python_version"],
        sum(node.state == 0 for node in nodes.values()),
    )
    return msgspec.structs.replace(found, problem=_mismatch(head, found, ray.__version__))


def wrong_token(head: str) -> str:
    return (
        f"the head at {head} refuses this machine's token: copy the one that "
        "`reverie cluster token` prints on the head's machine"
    )


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _mismatch(head: str, found: Found, ray_version: str) -> str:
    """Why these versions can't be in one cluster. Ray compares Python's to the patch."""
    here = {"Ray": ray_version, "Python": platform.python_version()}
    there = {"Ray": found.ray, "Python": found.python}
    for name, version in here.items():
        if version != there[name]:
            return (
                f"the head at {head} runs {name} {there[name]} and this machine {version}: "
                "all machines of a cluster need the same version"
            )
    return ""


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Ray writes to standard output as it likes
    out.write(msgspec.json.encode(probe(sys.argv[1])) + b"\n")
    out.flush()
    os._exit(0)  # Ray's threads may be waiting for the network


if __name__ == "__main__":
    main()
