# SPDX-License-Identifier: LGPL-2.1-or-later
"""SHA256SUMS, the checksums beside a generation's files: `sha256sum -c SHA256SUMS` checks them too.

While a generation is changed a file may have two lines, of what it was and of what it will be.
vm.json has none: it is rewritten when others go.
"""
import hashlib
import os
import re

from . import durable
from .stored import DAMAGED_FILE, VM_FILE, Damaged, open_regular

FILE = "SHA256SUMS"
CHUNK = 1 << 20
_zeros = {}  # checksums of files that are one hole, by length


def _escape(name):
    """As coreutils does: a name with odd characters has a backslash in front of its line."""
    odd = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return ("\\" if odd != name else "", odd)


def _unescape(name):
    return re.sub(r"\\([\\nr])", lambda m: {"\\": "\\", "n": "\n", "r": "\r"}[m[1]], name)


def of_file(path):
    """The SHA-256 of what the file PATH holds, in hex."""
    fd = open_regular(path)
    with open(fd, "rb", buffering=0) as f:
        status = os.fstat(fd)
        if status.st_blocks == 0 and status.st_size in _zeros:
            return _zeros[status.st_size]
        digest = hashlib.sha256()
        while data := f.read(CHUNK):
            digest.update(data)
        # From now on it is read from the disk, not from memory.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if status.st_blocks == 0:
        _zeros[status.st_size] = digest.hexdigest()
    return digest.hexdigest()


def read(folder):
    """Of each file of a generation the checksums that it may have; None if none were recorded."""
    path = os.path.join(folder, FILE)
    if not os.path.lexists(path):
        return None
    found = {}
    with open(open_regular(path), encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            said = re.fullmatch(r"(\\?)([0-9a-f]{64}) [ *](.+)\n", line)
            if not said:
                raise Damaged(f"{FILE} is damaged: '{line[:80].strip()}'")
            found.setdefault(_unescape(said[3]) if said[1] else said[3], []).append(said[2])
    return {os.path.normpath(name): digests for name, digests in found.items()}


def write(folder, sums):
    lines = []
    for name, digests in sorted(sums.items()):
        mark, odd = _escape(name)
        lines += [f"{mark}{digest}  {odd}\n" for digest in dict.fromkeys(digests)]
    durable.write(os.path.join(folder, FILE), "".join(lines))


def files(folder):
    """The files of a generation that have a checksum, relative to it."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(top, name), folder)
            if not name.startswith(".") and path not in (VM_FILE, FILE) and name != DAMAGED_FILE:
                yield path


def record(folder):
    """Writes the checksums of all files of a new generation."""
    write(folder, {name: [of_file(os.path.join(folder, name))] for name in files(folder)})


def settle(folder, changed):
    """The files of the names CHANGED are as they will be: their lines say so, and only that."""
    sums = read(folder)
    if sums is None:
        return
    sums = {name: digests for name, digests in sums.items()
            if os.path.lexists(os.path.join(folder, name))}
    for name, digests in sums.items():
        if name in changed or len(digests) > 1:
            sums[name] = [of_file(os.path.join(folder, name))]
    write(folder, sums)


def expect(folder, coming):
    """Files of a generation will soon be others: COMING has their checksums by name."""
    sums = read(folder)
    if sums is not None:
        for name, digest in coming.items():
            sums.setdefault(name, []).append(digest)
        write(folder, sums)
