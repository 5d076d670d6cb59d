# SPDX-License-Identifier: LGPL-2.1-or-later
"""SHA256SUMS, the checksums of a generation's files, in the format of `sha256sum -c SHA256SUMS`.

Raw images are mostly holes, so their checksums are in SHA256SUMS.sparse, in the same format: SHA-256
over the file's length followed by, for each MiB that is not all zeros, its offset and contents. Numbers
are 8 bytes, big-endian. The time depends on the amount of data, not on the disk's size.

While a generation is being changed, a file may have two lines, with old and new checksums. vm.json has
none, because it is rewritten when other generations are removed.
"""
import hashlib
import os
import re
import struct

from . import durable
from .making import data_of
from .stored import DAMAGED_FILE, SIZE_MAX, VM_FILE, Damaged, open_regular

FILE, SPARSE = "SHA256SUMS", "SHA256SUMS.sparse"
CHUNK = 1 << 20
# Sizes that no real backup reaches. A file of a few bytes may be a hole of exabytes.
LINE_MAX = 64 << 10
LIST_MAX = 512 << 20
OTHER_MAX = 16 << 30  # a file that is not an image: pieces have up to 1 GiB
ZEROS = bytes(CHUNK)
_zeros = {}  # checksums of files that are one hole, by length


def _escape(name):
    """Escapes like coreutils: lines of names with special characters begin with a backslash."""
    odd = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return ("\\" if odd != name else "", odd)


def _unescape(name):
    return re.sub(r"\\([\\nr])", lambda m: {"\\": "\\", "n": "\n", "r": "\r"}[m[1]], name)


def is_sparse(name):
    """Whether the file NAME (or its temporary name) has a sparse checksum."""
    return name.endswith((".raw", ".raw.part"))


def most(name, sizes):
    """Returns how many bytes the file NAME of a generation may have. SIZES maps the names of disks to
    their sizes; a qcow2 is little longer than its disk."""
    if name.endswith((".qcow2", ".raw")):
        return 2 * sizes.get(name.partition("/")[0], 0) + OTHER_MAX
    return OTHER_MAX


def check_size(name, size, limit):
    if size > limit:
        raise Damaged(f"{name} has {size} bytes, far more than its backup describes")


def of_whole(fd, status):
    if status.st_blocks == 0 and status.st_size in _zeros:
        return _zeros[status.st_size]
    digest, end = hashlib.sha256(), 0
    while data := os.pread(fd, min(CHUNK, status.st_size - end), end):
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


def of_file(path, limit=SIZE_MAX):
    """Returns the checksum of the file PATH, in hex. If it has more than LIMIT bytes it is damaged."""
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        if not is_sparse(path):
            check_size(os.path.basename(path), status.st_size, limit)
        digest = of_sparse(fd, status.st_size) if is_sparse(path) else of_whole(fd, status)
        # Drop the page cache: read from the disk.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return digest
    finally:
        os.close(fd)


def parse(lines, what):
    """Returns the checksums of each file in the list WHAT; a file may have two."""
    found = {}
    for line in lines:
        said = re.fullmatch(r"(\\?)([0-9a-f]{64}) [ *](.+)\n", line)
        if not said:
            raise Damaged(f"{what} is damaged: '{line[:80].strip()}'")
        name = os.path.normpath(_unescape(said[3]) if said[1] else said[3])
        found.setdefault(name, []).append(said[2])
    return found


def read_list(path):
    with open(open_regular(path), encoding="utf-8", errors="surrogateescape") as f:
        check_size(os.path.basename(path), os.fstat(f.fileno()).st_size, LIST_MAX)
        return parse(iter(lambda: f.readline(LINE_MAX), ""), os.path.basename(path))


def read(folder):
    """Returns the valid checksums of each file of a generation; None if none were recorded."""
    paths = [os.path.join(folder, file) for file in (FILE, SPARSE)]
    paths = [path for path in paths if os.path.lexists(path)]
    found = {}
    for path in paths:
        found.update(read_list(path))
    return found if paths else None


def text(sums):
    """Returns SUMS as text."""
    lines = []
    for name, digests in sorted(sums.items()):
        mark, odd = _escape(name)
        lines += [f"{mark}{digest}  {odd}\n" for digest in dict.fromkeys(digests)]
    return "".join(lines)


def write(folder, sums):
    for file, sparse in ((FILE, False), (SPARSE, True)):
        lines = text({name: d for name, d in sums.items() if is_sparse(name) == sparse})
        if lines or not sparse:
            durable.write(os.path.join(folder, file), lines)
        else:
            durable.remove(os.path.join(folder, file))


def files(folder):
    """Returns the files of a generation that have checksums, relative to its folder."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(top, name), folder)
            if not name.startswith(".") and path not in (VM_FILE, FILE, SPARSE) \
                    and name != DAMAGED_FILE:
                yield path


def record(folder):
    """Records the checksums of all files of a new generation."""
    write(folder, {name: [of_file(os.path.join(folder, name))] for name in files(folder)})


def settle(folder, changed):
    """Reduces the lines of the files CHANGED, now final, to their current checksums."""
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
    """Adds future checksums, COMING by name, of files that are about to be replaced."""
    sums = read(folder)
    if sums is not None:
        for name, digest in coming.items():
            sums.setdefault(name, []).append(digest)
        write(folder, sums)
