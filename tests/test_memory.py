"""How the heap of a serving process is kept."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_HEAPS = """\
import ctypes, sys, threading
from reverie.memory import prepare_memory
if sys.argv[1] == "prepared":
    prepare_memory()
allocate = ctypes.CDLL(None).malloc
together = threading.Barrier(4)
def work():
    for _ in range(100):
        allocate(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def heaps(how: str, **environ: str) -> int:
    """In how many heaps four threads allocate memory."""
    command = [sys.executable, "-c", _HEAPS, how]
    told = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=60)
    return told.stdout.count(b"<heap nr=")


@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library has other heaps")
def test_threads_share_one_heap_unless_the_operator_says_how_memory_is_had() -> None:
    assert heaps("as it is") > 1
    assert heaps("prepared") == 1
    assert heaps("prepared", MALLOC_ARENA_MAX="3") > 1
