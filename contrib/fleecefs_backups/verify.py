# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares what a tool has stored with the snapshot, which is still mounted."""
import os
import random
import tarfile

from . import making
from .commands import Failed
from .stored import open_regular

CHUNK = 1 << 20
_random = random.SystemRandom()


def chosen(percent):
    return percent >= 100 or _random.random() * 100 < percent


def chunks(fds, size):
    """Yields the ranges (start, end) that are data in any of FDS, at most one chunk each."""
    end = 0
    ranges = sorted(r for fd in fds for r in making.data_of(fd, size))
    for start, stop in ranges:
        start = max(start, end)
        while start < stop:
            end = min(stop, start - start % CHUNK + CHUNK)
            yield start, end
            start = end


def is_chosen_chunk(start, size, percent):
    return size <= CHUNK or chosen(percent)


def compare_files(snapshot, copy, percent):
    """Raises Failed if the file COPY differs from SNAPSHOT; compares PERCENT of the data."""
    ours, theirs = open_regular(snapshot), open_regular(copy)
    try:
        size = os.fstat(ours).st_size
        if os.fstat(theirs).st_size != size:
            raise Failed(f"{copy} differs from the snapshot in length")
        # Read from the disk, not from the page cache.
        os.posix_fadvise(theirs, 0, 0, os.POSIX_FADV_DONTNEED)
        for start, end in chunks((ours, theirs), size):
            if is_chosen_chunk(start, size, percent) and \
                    os.pread(ours, end - start, start) != os.pread(theirs, end - start, start):
                raise Failed(f"{copy} differs from the snapshot at byte {start} or after it")
    finally:
        os.close(ours)
        os.close(theirs)


def below(root, files):
    """Returns the regular files among or below FILES, names below ROOT."""
    for file in files:
        path = os.path.normpath(os.path.join(root, file))
        if os.path.isdir(path):
            for name in sorted(os.listdir(path)):
                yield os.path.relpath(os.path.join(path, name), root)
        else:
            yield os.path.relpath(path, root)


def compare_folders(mount, files, folder, percent):
    for name in below(mount.path, files):
        compare_files(os.path.join(mount.path, name), os.path.join(folder, name), percent)


def compare_archive(mount, files, stream, percent, what):
    """Like compare_files(), for a tar archive, which is read sequentially."""
    wanted = set(below(mount.path, files))
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = os.path.normpath(member.name.lstrip("/"))
                if name in wanted and member.isfile():
                    wanted.remove(name)
                    compare_member(os.path.join(mount.path, name), archive.extractfile(member),
                                   member.size, percent, f"{name} of {what}")
    except (tarfile.TarError, EOFError) as why:
        raise Failed(f"{what} cannot be read back: {why}") from None
    if wanted:
        raise Failed(f"{min(wanted)} is not in {what}")


def compare_member(snapshot, copy, length, percent, what):
    ours = open_regular(snapshot)
    try:
        size = os.fstat(ours).st_size
        if length != size:
            raise Failed(f"{what} differs from the snapshot in length")
        for start in range(0, size, CHUNK):
            step = min(CHUNK, size - start)
            data = copy.read(step)
            if is_chosen_chunk(start, size, percent) and data != os.pread(ours, step, start):
                raise Failed(f"{what} differs from the snapshot at byte {start} or after it")
    finally:
        os.close(ours)
