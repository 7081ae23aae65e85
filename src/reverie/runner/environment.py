"""What the child may know of its parent's environment."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME")
)
_PREFIXES = (
    *("LC_", "LD_", "DYLD_", "PYTHON", "MALLOC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_"),
    *("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCM_", "ROCR_", "SYCL_", "ONEAPI_", "ZE_", "VK_"),
)


_DEFAULTS = {"GOMP_SPINCOUNT": "1000"}
"""How long an idle computing thread spins before it sleeps, in llama.cpp's OpenMP.

Its own default lets the engine's threads keep a core from each other as soon as anything else
wants one: with as many threads as cores and as many busy neighbours, less than 3.3 tokens/s of 67
were left, and with this 6.7. It costs nothing that could be measured on an idle machine.
"""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Hand on what programs and compute drivers need, and nothing else but our defaults.

    An allow-list, since a secret may be in a variable of any name. ``LLAMA_ARG_*`` is left out
    too: it would override what the configuration says.
    """
    handed_on = {
        name: value
        for name, value in environ.items()
        if name in _NAMES or name.startswith(_PREFIXES)
    }
    return _DEFAULTS | handed_on
