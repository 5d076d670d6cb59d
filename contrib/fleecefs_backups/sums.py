# SPDX-License-Identifier: LGPL-2.1-or-later
"""SHA256SUMS, the checksums beside a generation's files: `sha256sum -c SHA256SUMS` checks them too.

Raw images, which are mostly holes, have theirs in SHA256SUMS.sparse, in the same form: SHA-256 of the
length of the file, and of each MiB that is not all zeros: where it begins, and the MiB. Numbers are of
8 bytes, big-endian. That takes as long as the data, not as long as the disk.

While a generation is changed a file may have two lines, of what it was and of what it will be.
vm.json has none: it is rewritten when others go.
"""
import hashlib
import os
import re
import struct

from . import durable
from .making import data_of
from .stored import DAMAGED_FILE, VM_FILE, Damaged, open_regular

FILE, SPARSE = "SHA256SUMS", "SHA256SUMS.sparse"
CHUNK = 1 << 20
ZEROS = bytes(CHUNK)
_zeros = {}  # checksums of files that are one hole, by length


def _escape(name):
    """As coreutils does: a name with odd characters has a backslash in front of its line."""
    odd = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return ("\\" if odd != name else "", odd)


def _unescape(name):
    return re.sub(r"\\([\\nr])", lambda m: {"\\": "\\", "n": "\n", "r": "\r"}[m[1]], name)


def is_sparse(name):
    """Whether the file NAME, or what will be it, has the other kind of checksum."""
    return name.endswith((".raw", ".raw.part"))


def of_whole(fd, status):
    if status.st_blocks == 0 and status.st_size in _zeros:
        return _zeros[status.st_size]
    digest, end = hashlib.sha256(), 0
    while data := os.pread(fd, CHUNK, end):
        digest.update(data)
        end += len(data)
    if status.st_blocks == 0:
        _zeros[status.st_size] = digest.hexdigest()
    return digest.hexdigest()


def of_sparse(fd, size):
    digest, done = hashlib.sha256(struct.pack(">Q", size)), 0
    for start, end in data_of(fd, size):
        for at in range(max(start - start % CHUNK, done), end, CHUNK):
            data, done = os.pread(fd, CHUNK, at), at + CHUNK
            if data != ZEROS[:len(data)]:
                digest.update(struct.pack(">Q", at) + data)
    return digest.hexdigest()


def of_file(path):
    """The checksum of what the file PATH holds, in hex."""
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        digest = of_sparse(fd, status.st_size) if is_sparse(path) else of_whole(fd, status)
        # From now on it is read from the disk, not from memory.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return digest
    finally:
        os.close(fd)


def read_list(path):
    """Of each file in one of the lists its checksums; a file may have two."""
    found = {}
    with open(open_regular(path), encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            said = re.fullmatch(r"(\\?)([0-9a-f]{64}) [ *](.+)\n", line)
            if not said:
                raise Damaged(f"{os.path.basename(path)} is damaged: '{line[:80].strip()}'")
            name = os.path.normpath(_unescape(said[3]) if said[1] else said[3])
            found.setdefault(name, []).append(said[2])
    return found


def read(folder):
    """Of each file of a generation the checksums that it may have; None if none were recorded."""
    paths = [os.path.join(folder, file) for file in (FILE, SPARSE)]
    paths = [path for path in paths if os.path.lexists(path)]
    found = {}
    for path in paths:
        found.update(read_list(path))
    return found if paths else None


def write(folder, sums):
    for file, sparse in ((FILE, False), (SPARSE, True)):
        lines = []
        for name, digests in sorted(sums.items()):
            if is_sparse(name) == sparse:
                mark, odd = _escape(name)
                lines += [f"{mark}{digest}  {odd}\n" for digest in dict.fromkeys(digests)]
        if lines or not sparse:
            durable.write(os.path.join(folder, file), "".join(lines))
        else:
            durable.remove(os.path.join(folder, file))


def files(folder):
    """The files of a generation that have a checksum, relative to it."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(top, name), folder)
            if not name.startswith(".") and path not in (VM_FILE, FILE, SPARSE) \
                    and name != DAMAGED_FILE:
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
