"""``python -m reverie.models.fetching REF``: fetch a model in a process that can be ended.

Each line on standard output is a JSON object: how far it has come (``done``, ``total``), and at
last ``size``, the bytes of the file, or ``error``, a sentence. SIGTERM ends it and leaves nothing
half done; so does the end of standard input, which comes with the end of whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import NoReturn

from reverie.errors import ModelError
from reverie.models.gguf import read_header
from reverie.models.progress import Progress, ReportedProgress
from reverie.models.store import fetch

_GRACE = 2.0
"""Seconds to clean up once whoever started it has ended."""


def main() -> None:
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        file = fetch(sys.argv[1], _show)
        read_header(file)  # or it is no model
        _tell(size=file.stat().st_size)
    except ModelError as error:
        _tell(error=str(error))
    except Exception as error:
        _tell(error=f"The download failed ({type(error).__name__}). Try again.")


def _show(what: str, total: int) -> Progress:
    return ReportedProgress(lambda done, whole: _tell(done=done, total=whole), total)


def _tell(**what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - read by whoever started it


def _exit(*_: object) -> NoReturn:
    sys.exit(1)


def _end_with_parent() -> None:
    sys.stdin.read()
    timer = threading.Timer(_GRACE, os.killpg, (os.getpgrp(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
