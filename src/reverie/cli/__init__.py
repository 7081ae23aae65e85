"""The command line: one small file per verb."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; what the operator can mend ends in plain sentences, not in a traceback."""
    try:
        if sys.argv[1:2] == ["serve"]:
            from reverie.sighup import note_hangups

            note_hangups()  # before the imports below, which take a moment
        from reverie.cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
