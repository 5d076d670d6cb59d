# SPDX-License-Identifier: LGPL-2.1-or-later
"""Restores a disk from its chain of images.

The images are opened read-only and untrusted.
"""
import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import struct
import subprocess
import sys

from . import qcow2
from .commands import STOPPING, unblock
from .stored import Damaged, Refused, member, open_regular, parse_json, pieces_of

CHECK_SECONDS = 3600  # for qemu-img check, which reads an image's tables
MAP_MAX = 256 << 20  # of a mapfile
AFTER_MAX = 1 << 30  # after the last cluster of a qcow2: there is nothing
LAYERS_MAX = 32  # more increments than that do not lie on one another, but go into a copy
CHUNK = 1 << 20


@contextlib.contextmanager
def opened(path):
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


def read_map(path, size):
    """Yields the finished ranges (start, length) of a GNU ddrescue mapfile of SIZE bytes."""
    ranges, end = [], 0
    with opened(path) as fd, open(fd, encoding="ascii", closefd=False) as f:
        if os.fstat(fd).st_size > MAP_MAX:
            raise Refused(f"{path} is damaged: it is too large")
        try:
            # The first line of numbers is ddrescue's status line.
            for line in [x for x in f if x.startswith("0x")][1:]:
                start, length, status = line.split()
                if int(start, 16) != end or int(length, 16) <= 0:
                    raise ValueError
                if status == "+":
                    ranges.append((end, int(length, 16)))
                end += int(length, 16)
            if end != size:
                raise ValueError
        except ValueError:
            raise Refused(f"{path} is damaged: it does not describe {size} bytes") from None
    return ranges


def check_qcow2(image, fd):
    header = qcow2.read_header(fd)
    if header.incompatible & qcow2.DATA_FILE:
        raise Damaged("its data is in another file, unlike in backups")
    if header.backed and not image.base:
        raise Damaged("it has a backing file, unlike full backups")
    if not image.size <= header.size < image.size + 512:
        raise Damaged(f"it is of a disk of {header.size} bytes, not of {image.size}")
    alone = {**node("qcow2", image.path), "backing": None}
    qcow2.check_tables(fd, header)
    try:
        done = subprocess.run(["qemu-img", "check", "--output=json", "json:" + json.dumps(alone)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        raise Damaged(f"qemu-img check takes more than {CHECK_SECONDS} s") from None
    if done.returncode != 0:
        raise Damaged("qemu-img check finds errors")
    # A hole after it would take for ever to read.
    if os.fstat(fd).st_size > member(parse_json(done.stdout), "image-end-offset", int, 0) + AFTER_MAX:
        raise Damaged("it is much longer than its contents")


def check_file(image):
    """Refuses a truncated file, an increment without its map, or a qcow2 with unsafe features."""
    try:
        if image.form == "split":
            return pieces_of(image)
        with opened(image.path) as fd:
            if image.form == "qcow2":
                check_qcow2(image, fd)
            elif os.fstat(fd).st_size != image.size:
                raise Damaged(f"it is not {image.size} bytes long")
    except (Damaged, qcow2.Damaged) as why:
        raise Refused(f"{image.path} is damaged: {why}") from None
    if image.form == "raw" and image.base:
        try:
            read_map(image.map, image.size)
        except Damaged as why:
            raise Refused(f"{image.map} is damaged: {why}") from None


def check_end(image):
    """Refuses a file that is cut off, and an increment without its map; reads little of it."""
    try:
        if image.form != "qcow2":
            return check_file(image)
        with opened(image.path) as fd:
            qcow2.check_end(fd, qcow2.read_header(fd))
    except (Damaged, qcow2.Damaged) as why:
        raise Refused(f"{image.path} is damaged: {why}") from None


def node(form, path):
    """Returns a QEMU block node; ignores format and backing file recorded in the image."""
    return {"driver": form, "file": {"driver": "file", "filename": path}}


def convert(source, target, form, *options):
    run("qemu-img", "convert", *["-p"] * sys.stderr.isatty(), "-O", form, *options,
        "json:" + json.dumps(source), target)


def run(*argv):
    """Runs a command that ends with this process: no signal can separate its start and the wait."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=unblock)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        process.wait()
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise Refused(f"{argv[0]} has failed: exit status {process.returncode}")


def copy_range(source, target, start, length, place):
    """Copies LENGTH bytes at PLACE of SOURCE (None: zeros) to START of TARGET; keeps holes of TARGET
    where both read as zeros."""
    end = start + length
    while start < end:
        step = min(CHUNK, end - start)
        data = bytes(step) if place is None else qcow2.read_exactly(source, place, step)
        if any(data) or os.pread(target, step, start) != data:
            written = 0
            while written < step:
                written += os.pwrite(target, data[written:], start + written)
        start += step
        place = place if place is None else place + step


def data_of(fd, length):
    """Yields the ranges of the file FD that are not holes, as (start, end)."""
    end = 0
    while end < length:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), length)
        if start < end:
            yield start, end


def join(image, target):
    """Writes a disk stored in pieces to TARGET, the descriptor of a new file or a device."""
    device = stat.S_ISBLK(os.fstat(target).st_mode)
    if not device:
        os.ftruncate(target, image.size)
    for path, at, length in pieces_of(image):
        with opened(path) as fd:
            end = 0
            for start, stop in data_of(fd, length):
                if device:
                    copy_range(None, target, at + end, start - end, None)
                copy_range(fd, target, at + start, stop - start, start)
                end = stop
            if device:
                copy_range(None, target, at + end, length - end, None)


def apply(image, target):
    """Writes an increment into TARGET, a descriptor; False if only QEMU can read it."""
    with opened(image.path) as fd:
        if image.form == "raw":
            for start, length in read_map(image.map, image.size):
                copy_range(fd, target, start, length, start)
            return True
        header = qcow2.read_header(fd)
        if not header.plain or any(e is None for e in qcow2.extents(fd, header)):
            return False
        for start, length, place in qcow2.extents(fd, header):
            copy_range(fd, target, start, length, place)
        return True


def stack(chain, target, form, *options):
    """Writes TARGET: stacks a few qcow2 increments as backing files; writes raw ones, and longer
    chains, into a copy of the rest."""
    copy = target + ".raw"
    top, layers = None, 0
    layers_max = LAYERS_MAX if len(chain) <= LAYERS_MAX else 1

    def flush():
        """Writes everything stacked so far to the copy."""
        nonlocal top, layers
        if top != node("raw", copy):
            convert(top, copy + ".new", "raw")
            os.rename(copy + ".new", copy)
            top, layers = node("raw", copy), 1

    try:
        for image in chain:
            if image.form == "split":
                fd = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                             0o600)
                try:
                    join(image, fd)
                finally:
                    os.close(fd)
                top, layers = node("raw", copy), 1
                continue
            if not image.base:
                top, layers = {**node(image.form, image.path)}, 1
                if image.form == "qcow2":
                    top["backing"] = None
                continue
            if image.form == "raw" or layers >= layers_max:
                flush()
                fd = os.open(copy, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if apply(image, fd):
                        continue
                finally:
                    os.close(fd)
            top, layers = {**node("qcow2", image.path), "backing": top}, layers + 1
        if top == node("raw", copy) and form == "raw" and not options:
            os.rename(copy, target)
        else:
            convert(top, target, form, *options)
    except (Damaged, qcow2.Damaged) as why:
        raise Refused(f"{image.path} is damaged: {why}") from None
    finally:
        for path in (copy, copy + ".new"):
            if os.path.exists(path):
                os.unlink(path)


def is_device(path):
    return os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)


def lock(path):
    """Refuses the image of a running VM, like qemu-img; returns a descriptor that keeps VMs from
    starting with it.

    QEMU's locks (block/file-posix.c): a shared lock on byte 100 + N for each permission N that it
    holds, and on byte 200 + N for each that it does not share.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # struct flock: l_type, l_whence, l_start, l_len, l_pid
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK,
                    struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0))
    except BlockingIOError:
        os.close(fd)
        raise Refused(f"{path} is in use: a VM runs with it, or a program reads it; nothing was "
                      "written") from None
    return fd


def restore(chain, output, form):
    """Creates OUTPUT, renamed when complete."""
    held = lock(output) if os.path.exists(output) else None
    try:
        if is_device(output) and len(chain) == 1 and chain[0].form == "split":
            if os.lseek(held, 0, os.SEEK_END) < chain[0].size:
                raise Refused(f"{output} is smaller than the disk")
            join(chain[0], held)
            return os.fsync(held)
        if is_device(output):
            if any(i.form == "split" or i.base and i.form == "raw" for i in chain) or \
                    len(chain) > LAYERS_MAX:
                raise Refused("raw increments, increments on pieces, and more than "
                              f"{LAYERS_MAX - 1} qcow2 increments cannot be restored to a block device: "
                              "restore to a file, then qemu-img convert -n")
            os.close(held)  # QEMU takes the lock itself
            held = None
            return stack(chain, output, "raw", "-n")
        if held is not None and any(os.path.samefile(i.path, output) for i in chain):
            raise Refused(f"{output} is part of the backup")
        part = output + ".part"
        try:
            stack(chain, part, form)
            if form == "raw":
                os.truncate(part, chain[-1].size)  # QEMU counts in sectors
            run("sync", "--", part)
            os.rename(part, output)
        finally:
            if os.path.exists(part):
                os.unlink(part)
    finally:
        if held is not None:
            os.close(held)
