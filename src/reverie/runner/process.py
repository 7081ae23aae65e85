"""One engine process: started with a filtered environment, awaited, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Self

from reverie.errors import ModelError
from reverie.runner.options import XLLAMACPP, EngineOptions

_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

_ALLOWED_NAMES = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME")
)
_ALLOWED_PREFIXES = (
    *("LC_", "LD_", "DYLD_", "PYTHON", "MALLOC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_"),
    *("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCM_", "ROCR_", "SYCL_", "ONEAPI_", "ZE_", "VK_"),
)
_DEFAULTS = {"GOMP_SPINCOUNT": "1000"}
"""How long an idle compute thread of llama.cpp's OpenMP spins before it sleeps.

With OpenMP's own default, threads that spin keep cores from those that have work as soon as
anything else wants a core. With as many threads as cores and as many busy neighbours, that left
less than 3.3 of 67 tokens/s, and this leaves 6.7. On an idle machine it made no measurable
difference.
"""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What programs and compute drivers need of ``environ``, and our defaults.

    An allow-list, since a variable of any name may hold a secret. ``LLAMA_ARG_*`` is left out too:
    it would override the configuration.
    """
    allowed = {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED_NAMES or name.startswith(_ALLOWED_PREFIXES)
    }
    return _DEFAULTS | allowed


def how_it_ended(status: int) -> str:
    """``status 1``, or the signal that killed a process, such as ``SIGKILL``.

    Args:
        status: as ``returncode`` has it, negative for a signal.
    """
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def find_engine(engine: str) -> str:
    """``xllamacpp``, or the absolute path of a binary.

    Raises:
        ModelError: there is no such program.
    """
    if engine == XLLAMACPP:
        return engine
    found = shutil.which(Path(engine).expanduser())
    if found is None:
        raise ModelError(
            f"The engine {engine} is neither {XLLAMACPP!r} nor a program that can be run."
        )
    return os.path.abspath(found)


class EngineProcess:
    """A running engine. ``exited`` holds its exit status (negative: the signal that killed it)."""

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self.exited: asyncio.Future[int] = asyncio.ensure_future(process.wait())
        self._process = process  # keeps the pipe to its standard input open

    @classmethod
    async def spawn(cls, options: EngineOptions, output: BinaryIO) -> Self:
        """Start an engine that writes its standard output and error to ``output``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "reverie.runner.child", options.to_json()),
            stdin=PIPE,  # ends when this process ends: see guard
            stdout=output,
            stderr=STDOUT,
            env=child_environment(os.environ),
            start_new_session=True,  # Ctrl-C is for the gateway alone, which drains first
        )
        return cls(process)

    async def end(self, *, gracefully: bool = True) -> None:
        """End the engine; returns when it is gone. If cancelled, it is killed.

        Args:
            gracefully: SIGTERM first, then SIGKILL; False: SIGKILL at once, for one that hangs.
        """
        try:
            if gracefully:
                self._signal(signal.SIGTERM)
                await asyncio.wait({self.exited}, timeout=_GRACE)
            if not self.exited.done():
                self._signal(signal.SIGKILL)
                await asyncio.wait({self.exited})
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            raise

    def _signal(self, number: signal.Signals) -> None:
        """Signal the engine's whole session, since a ``llama-server`` may be a wrapper script."""
        if self._process.returncode is None:
            # It may be gone already; macOS reports that as a lack of permission.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
