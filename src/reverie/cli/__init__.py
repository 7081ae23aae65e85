"""The command line: one small file per verb."""

from __future__ import annotations

import signal
import sys

from reverie.container_init import leave_process_one


def main() -> None:
    """Run a command. An operator's mistake is reported as a sentence, not a traceback."""
    leave_process_one()
    try:
        if sys.argv[1:2] == ["serve"]:
            # It would end the start. The kernel keeps it until the server is up and unblocks it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        from reverie.cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
