"""Ask pip where a wheel is, without fetching it: ``python -m reverie.models.locate NAME==VERSION``.

pip has no command for this: ``pip install --dry-run --report`` fetches the whole wheel unless the
index serves its metadata apart. So this asks the finder inside pip. It is the only place that
does, it runs in a process of its own, and where a future pip has none, the caller lets pip fetch.
"""

from __future__ import annotations

import logging
import sys

NOT_FOUND = 3
"""Exit status when no index has the wheel; standard error says what was tried."""


def locate(requirement: str) -> str | None:
    """The URL of the wheel that pip would take, by the user's own configuration of pip."""
    from pip._internal.commands.download import DownloadCommand
    from pip._vendor.packaging.requirements import Requirement

    wanted = Requirement(requirement)
    command = DownloadCommand("download", "")
    options, _ = command.parse_args(["--only-binary", ":all:", "--no-input", requirement])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(wanted.name, wanted.specifier).best_candidate
    return None if best is None else best.link.url_without_fragment


def _main() -> int:
    collector = logging.getLogger("pip._internal.index.collector")
    collector.addHandler(logging.StreamHandler())
    collector.setLevel(logging.DEBUG)  # it keeps to itself which index could not be asked, and why
    url = locate(sys.argv[1])
    if url is None:
        return NOT_FOUND
    print(url)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(_main())
