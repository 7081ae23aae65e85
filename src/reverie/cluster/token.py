"""The cluster's token: who holds it may join, and run code on every machine of the cluster."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from reverie.errors import ConfigurationError
from reverie.files import read_whole
from reverie.paths import make_folder, state_directory

TOKEN_VARIABLE = "REVERIE_CLUSTER_TOKEN"
_LEAST = 16
"""Characters: fewer are no secret."""


def default_token_file() -> Path:
    """Where the commands of this machine keep it, unless they are told of another file."""
    return state_directory() / "cluster" / "token"


def read_token(token_file: Path | None, environ: Mapping[str, str] | None = None) -> str:
    """The token: of the file if one is named, else of the variable, else of the default file.

    Raises:
        ConfigurationError: there is none, or it can't be one.
    """
    variable = (os.environ if environ is None else environ).get(TOKEN_VARIABLE)
    if token_file is None and variable is not None:
        return _checked(variable, TOKEN_VARIABLE)
    file = token_file or default_token_file()
    try:
        return _checked(read_whole(file).decode("ascii", "replace"), str(file))
    except FileNotFoundError:
        raise ConfigurationError(
            [
                f"{file}: there is no token here: copy the one that `reverie cluster token` prints "
                f"on the head's machine into it, or set {TOKEN_VARIABLE}"
            ]
        ) from None
    except OSError as error:
        raise ConfigurationError([f"{file}: can't be read: {error.strerror}"]) from None


def exposed_token(token_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that ``read_token`` reads, if every user of this machine may read or change it."""
    if token_file is None and TOKEN_VARIABLE in environ:
        return None
    file = token_file or default_token_file()
    try:
        about = file.stat()
    except OSError:
        return None
    everyone = stat.S_IROTH | stat.S_IWOTH
    return file if stat.S_ISREG(about.st_mode) and about.st_mode & everyone else None


def make_token(token_file: Path | None) -> bool:
    """Make the token in this file, or the default one, if there is no such file.

    Returns:
        True if it was made now.

    Raises:
        ConfigurationError: the file can't be written.
    """
    file = (token_file or default_token_file()).absolute()
    if file.exists():
        return False
    try:
        make_folder(file.parent)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError([f"{file}: can't be written: {error.strerror}"]) from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(32) + "\n")
    return True


def _checked(written: str, where: str) -> str:
    token = written.strip()
    if len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            [f"{where}: holds no token, which is one word of {_LEAST} characters or more"]
        )
    return token
