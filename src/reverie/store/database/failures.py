"""What an operator is told of a database's failure: what is wrong, and what to do.

SQLite's failures name the file. PostgreSQL's name neither its address nor a value: libpq's own text
holds the host, the user and the statement.

Sources: https://www.sqlite.org/rescode.html,
https://www.postgresql.org/docs/current/errcodes-appendix.html, and libpq's English messages where a
connection failed, for which the driver has no code.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

_SQLITE = {
    sqlite3.SQLITE_BUSY: "is locked by another program; end that one, or raise store.timeout",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "can't grow: its disk is full; free some space",
    sqlite3.SQLITE_IOERR: "can't be read or written: its disk fails or is full",
    sqlite3.SQLITE_LOCKED: "is locked by another program; end that one, or raise store.timeout",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; name another file",
    sqlite3.SQLITE_PERM: "can't be opened: give this user the right to read and write it",
    sqlite3.SQLITE_READONLY: "can't be written: give this user the right to write it",
}
"""By primary result code, as the end of a sentence that begins with the file."""

_STATES = {
    "25006": "it is read-only; name the primary server, not a standby",
    "42501": "its user may not do that; run GRANT CREATE, USAGE ON SCHEMA public TO that user",
    "42P01": "a table is missing; name a database that is Reverie's alone",
    "53100": "its disk is full; free some space",
    "53200": "it is out of memory",
    "53300": "it has too many connections; raise max_connections, or close some",
    "55P03": "another transaction holds a lock for longer than store.timeout",
    "57014": "it took longer than store.timeout",
    "57P01": "it is shutting down",
    "57P03": "it is starting up or shutting down",
}
"""By SQLSTATE."""

_PASSWORD = "its user's password is wrong or missing; check store.url, PGPASSWORD or ~/.pgpass"
_SILENT = "it doesn't answer in time; check host, port and firewall"
_NO_HOST = "its host is unknown; check the name in store.url"
_UNREACHABLE = "its host can't be reached; check the name in store.url, and the network"
_CLIENT_CERTIFICATE = "it wants a client's certificate; check sslcert and sslkey in store.url"
_OPTION = "store.url has an option that PostgreSQL doesn't know"
_CONNECTING = (
    (("no password supplied",), _PASSWORD),
    (
        ("peer authentication failed",),
        "this program's user may not log in as that one without a password; name a host in "
        "store.url, or allow it in the server's pg_hba.conf",
    ),
    (
        ("certificate authentication failed",),
        "it doesn't take the client's certificate; check sslcert and sslkey in store.url",
    ),
    (("authentication failed",), _PASSWORD),
    (("database", "does not exist"), "there is no such database; make it: createdb NAME"),
    (("role", "does not exist"), "there is no such user; make it: createuser --pwprompt NAME"),
    (("is not permitted to log in",), "its user may not log in; run ALTER ROLE NAME LOGIN"),
    (
        ("permission denied for database",),
        "its user may not use that database; GRANT CONNECT to it",
    ),
    (
        ("no pg_hba.conf entry", "no encryption"),
        "it refuses this user or machine without TLS; add ?sslmode=require to store.url, or allow "
        "it in the server's pg_hba.conf",
    ),
    (
        ("pg_hba.conf",),
        "it refuses this user or machine; allow it in the server's pg_hba.conf",
    ),
    (
        ("does not support ssl",),
        "it has no TLS, as sslmode in store.url demands; turn it on there, or leave sslmode out",
    ),
    (("root certificate",), "the file of sslrootcert in store.url can't be used; name the CA's"),
    (("valid client certificate",), _CLIENT_CERTIFICATE),
    (("certificate file",), _CLIENT_CERTIFICATE),
    (("private key file",), _CLIENT_CERTIFICATE),
    (
        ("certificate",),
        "its TLS certificate isn't trusted; name its CA by sslrootcert in store.url",
    ),
    (("too many", "connections"), _STATES["53300"]),
    (("too many clients",), _STATES["53300"]),
    (("connection slots",), _STATES["53300"]),
    (("the database system is",), "it is starting up or shutting down"),
    (("failed to resolve host",), _NO_HOST),
    (("could not translate host name",), _NO_HOST),
    (("connection refused",), "nobody listens there; start PostgreSQL, or check host and port"),
    (
        ("no such file or directory", "on socket"),
        "nobody listens on that socket; start PostgreSQL, or check host and port in store.url",
    ),
    (("network is unreachable",), _UNREACHABLE),
    (("no route to host",), _UNREACHABLE),
    (("timeout",), _SILENT),
    (("timed out",), _SILENT),
    (("no answer within",), "it hangs: it doesn't answer within store.timeout"),
    (
        ("invalid response to ssl negotiation",),
        "what listens there isn't PostgreSQL; check the port",
    ),
    (("invalid uri query parameter",), _OPTION),
    (("invalid connection option",), _OPTION),
    (("server closed the connection",), "it closed the connection"),
)
"""Words, all of which a message holds, in lower case → the reason. The first row that fits counts;
names in quotes are left out before."""


_QUOTED = re.compile(r'"[^"]*"')


def reason_of(error: BaseException | None, path: Path | None) -> str:
    """One line on a driver's error.

    Args:
        path: SQLite's file; None for PostgreSQL.
    """
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, path)
    state = getattr(error, "sqlstate", None)
    if state in _STATES:
        return _STATES[state]
    if state:
        return f"{type(error).__name__} ({state})"
    text = _QUOTED.sub("", str(error)).lower()
    for words, reason in _CONNECTING:
        if all(word in text for word in words):
            return reason
    return type(error).__name__


def _of_sqlite(error: sqlite3.Error, path: Path | None) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if path is None or code is None:
        return str(error)
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return f"{path} {why_not_opened(path)}"
    known = _SQLITE.get(code & 0xFF)
    return f"{path} {known}" if known else f"{path}: {error}"


def why_not_opened(path: Path) -> str:
    """What keeps a SQLite file from being opened, as the end of a sentence that begins with it."""
    # Not by Path's methods, which raise where a folder above may not be entered.
    if os.path.isdir(path):
        return "is a folder; name a file in it"
    if os.path.isdir(path.parent.parent) and not os.path.exists(path.parent):
        return "can't be opened: its folder is missing; make it"
    return "can't be opened: give this user the right to read and write it and its folder"
