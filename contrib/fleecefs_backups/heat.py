# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which parts of a disk changed, from any source: maps, mapfiles of ddrescue, qcow2 images, pieces,
and backups of fleecefs-backup."""
import argparse
import dataclasses
import os

from . import choice, making, qcow2, stored
from .text import moment

COUNTED = ("dirty", "data")  # of bitmaps, and of disk.map


@dataclasses.dataclass
class Change:
    """Changes of one generation: READ() yields sorted (start, end) on a disk of SIZE bytes."""
    size: int
    read: object
    path: str
    info: dict = dataclasses.field(default_factory=dict)  # info.json, where it is known


def size_of_map(path):
    """Returns the size of the disk: where the map's last line ends."""
    with open(path, "rb") as f:
        f.seek(max(0, f.seek(0, 2) - 4096))
        words = f.read().split(b"\n")[-2:][0].split()
    try:
        return int(words[0]) + int(words[1])
    except (IndexError, ValueError):
        raise ValueError(f"{path} is not a map, or is truncated") from None


def read_map(path, size):
    """Yields the changed ranges in a .map file of a disk of SIZE bytes."""
    end = 0
    with open(path) as f:
        for number, line in enumerate(f, 1):
            words = line.split()
            try:
                start, length = int(words[0]), int(words[1])
            except (IndexError, ValueError):
                raise ValueError(f"{path}:{number} is not a line of a map") from None
            if start != end or length < 1:
                raise ValueError(f"{path}:{number} does not start where the previous line ends")
            end += length
            if end > size:
                break
            if words[-1] in COUNTED:
                yield start, end
    if end != size:
        raise ValueError(f"{path} is truncated, or of a disk of another size")


def size_of_mapfile(path):
    """Returns the size of the disk of a GNU ddrescue mapfile."""
    with open(path, encoding="ascii", errors="replace") as f:
        words = [line.split() for line in f if line.startswith("0x")][-1:]
    try:
        return int(words[0][0], 16) + int(words[0][1], 16)
    except (IndexError, ValueError):
        raise ValueError(f"{path} is not a ddrescue mapfile, or is truncated") from None


def read_qcow2(path):
    with making.opened(path) as fd:
        for extent in qcow2.extents(fd, qcow2.read_header(fd)):
            if extent is None:
                raise ValueError(f"{path} is compressed, unlike any file of fleecefs")
            yield extent[0], extent[0] + extent[1]


def read_pieces(image, since):
    """Yields the pieces that are not older than the snapshot."""
    for path, start, length in stored.pieces_of(image):
        if since is None or os.stat(path).st_mtime >= int(since.timestamp()):
            yield start, start + length


def info_beside(path):
    """Returns info.json of the disk of PATH, a file or a folder of pieces; {} if there is none."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.basename(folder) == "dirty":
        folder = os.path.dirname(folder)
    path = os.path.join(folder, "info.json")
    return stored.read_json(path) if os.path.lexists(path) else {}


def of_pieces(path):
    info = info_beside(path)
    names = sorted(os.listdir(path))
    size = stored.member(info, "size", int, -1)
    if size < 0:
        size = sum(os.path.getsize(os.path.join(path, name)) for name in names)
    image = stored.Image(path, os.path.dirname(path), "", size, "", "", "")
    if not names:
        raise ValueError(f"{path} contains no pieces")
    return Change(size, lambda: read_pieces(image, moment(info.get("point_in_time", ""))), path, info)


def of_file(path):
    if path.endswith(".ddrescue"):
        size = size_of_mapfile(path)
        return Change(size, lambda: ((s, s + n) for s, n in making.read_map(path, size)), path,
                      info_beside(path))
    if path.endswith(".qcow2"):
        with making.opened(path) as fd:
            size = qcow2.read_header(fd).size
        return Change(size, lambda: read_qcow2(path), path, info_beside(path))
    size = size_of_map(path)
    return Change(size, lambda: read_map(path, size), path, info_beside(path))


def of_image(image):
    """Returns the Change of a stored image."""
    if image.form == "split":
        return of_pieces(image.path)
    return of_file(image.map if image.form == "raw" else image.path)


def of_folder(folder, vm, disk):
    """Returns the changes of a disk stored below FOLDER (increments and pieces), oldest first."""
    images = choice.of_vm(stored.Stored(folder), vm)
    disks = sorted({i.disk for i in images if disk in (None, i.disk, i.disk_id)})
    if not disks:
        raise ValueError(f"{folder} contains no disk" + (f" {disk}" if disk else ""))
    if len(disks) > 1:
        raise ValueError("there are several disks, choose one with --disk: " + ", ".join(disks))
    images = [i for i in images if i.disk == disks[0]]
    found = [i for i in images if i.base or i.form == "split"] or [
        i for i in images if i.form == "qcow2"]
    if not found:
        raise ValueError(f"{folder} contains no increments or pieces of {disks[0]}")
    return [of_image(i) for i in found]


def changes_of(path, vm, disk):
    """Returns the changes of a path from the command line."""
    try:
        if not os.path.isdir(path):
            return [of_file(path)]
        if os.path.basename(os.path.normpath(path)) == "split":
            return [of_pieces(path)]
        return of_folder(path, vm, disk)
    except (stored.Damaged, qcow2.Damaged) as why:
        raise ValueError(f"{path}: {why}") from None


def number(text):
    if not text.isdecimal() or not 0 < int(text) <= 10000:
        raise argparse.ArgumentTypeError("a picture has from 1 to 10000 rows and columns")
    return int(text)
