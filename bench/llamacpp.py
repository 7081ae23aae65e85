"""llama.cpp's own server, from the same library as Reverie's engine, with llama-server's defaults.

Those are four slots that share one cache, batches of 2,048 and a thread for each core; the library
has one slot by itself.
"""

from __future__ import annotations

import argparse
import signal
import sys

import xllamacpp

_SLOTS = 4


def main(model: str, port: int) -> None:
    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.ui = False
    params.model.path = model
    params.n_parallel = _SLOTS
    params.kv_unified = True
    server = xllamacpp.Server(params)  # runs until it is collected
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the GGUF file")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    main(given.model, given.port)
