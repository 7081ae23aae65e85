"""Runs a program in as much of a unit's sandbox as a process can put on by itself.

``python sandbox.py UNIT PROGRAM …`` reads the unit and applies its filter of system calls, its
address families, its ban on memory that is both writable and executable, and its umask: what a
kernel then refuses, it refuses under systemd, too. Namespaces and read-only folders are left out:
they need privileges. It needs libseccomp, which systemd brings.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ALLOW = 0x7FFF0000  # seccomp.h
_ERRNO = 0x00050000
_SET_NO_NEW_PRIVS = 38  # prctl.h
_SET_MDWE = 65
_NOT_EQUAL = 1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def directives(unit: Path) -> dict[str, list[str]]:
    """The unit's directives, each with its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def _calls(group: str) -> Iterator[str]:
    """The system calls of a group, as systemd has it."""
    if not group.startswith("@"):
        yield group
        return
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines()[1:]:
        if (name := line.strip()) and not name.startswith("#"):
            yield from _calls(name)


def allowed(filters: list[str]) -> set[str]:
    """The system calls that are left by these values of ``SystemCallFilter``."""
    calls: set[str] = set()
    for value in filters:
        groups = value.removeprefix("~").split()
        named = {call for group in groups for call in _calls(group)}
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def _filter(unit: dict[str, list[str]]) -> None:
    """Refuse the system calls that the unit doesn't allow, with EPERM."""
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(_ERRNO | errno.EPERM))
    families = [
        getattr(__import__("socket"), one) for one in unit["RestrictAddressFamilies"][0].split()
    ]
    for name in allowed(unit["SystemCallFilter"]):
        call = lib.seccomp_syscall_resolve_name(name.encode())
        if call < 0:  # not of this machine
            continue
        rules: list[list[_Comparison]] = [[]]
        if name == "socket":
            rules = [[_Comparison(0, 4, int(family), 0)] for family in families]  # SCMP_CMP_EQ
        for rule in rules:
            compared = (_Comparison * len(rule))(*rule)
            if lib.seccomp_rule_add_array(context, _ALLOW, call, len(rule), compared):
                raise OSError(f"no rule for {name}")
    if lib.seccomp_load(context):
        raise OSError("the filter can't be loaded")


def main() -> None:
    unit = directives(Path(sys.argv[1]))
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(int(unit["UMask"][0], 8))
    assert unit["NoNewPrivileges"] == ["yes"]
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    _filter(unit)
    # Linux 6.3 and later; systemd has a filter of its own for the same.
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    if libc.prctl(_SET_MDWE, 1, 0, 0, 0) and ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
