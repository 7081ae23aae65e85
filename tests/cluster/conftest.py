"""A cluster on this machine for all tests of one file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.cluster.ray_cluster import RayCluster

# At its import Ray changes how the whole process makes a line of its log. Modules here import it.
_record_factory = logging.getLogRecordFactory()
with contextlib.suppress(ImportError):
    import ray  # noqa: F401
logging.setLogRecordFactory(_record_factory)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RayCluster]:
    """A head, and two machines on which four engines may run each."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    name = getattr(request.config, "workerinput", {}).get("workerid", "gw0")
    one = RayCluster(tmp_path_factory.mktemp("cluster"), int(name.removeprefix("gw")))
    try:
        one.start(machines=2)
        yield one
    finally:
        one.stop()
