"""Random disks with dirty bitmaps maintained by QEMU, and what stock tools report about them."""
import json
import os

from lib import KIB, run

# Like real disks, ends in the middle of a cluster and of a granule.
ODD_SIZE = 64 * 1024 * KIB + 5 * 512


def create(path, size=ODD_SIZE, bitmaps=(), options=(), backing=None):
    """Creates a qcow2 image with BITMAPS: names, or (name, granularity) pairs. With BACKING, another
    qcow2 image, it has the size of that one."""
    last = ["-b", backing, "-F", "qcow2", path] if backing else [path, size]
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, *last)
    for bitmap in bitmaps:
        add_bitmap(path, *([bitmap] if isinstance(bitmap, str) else bitmap))
    return path


def add_bitmap(path, name, granularity=64 * KIB):
    run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)


def scribble(path, rng, count, size=ODD_SIZE, image_format="qcow2"):
    """Does COUNT random writes of data or zeros, and discards; the bitmaps record them all."""
    commands = []
    for _ in range(count):
        length = min(rng.choice([512, 4 * KIB, 64 * KIB, 200 * KIB, 1024 * KIB]) *
                     rng.randint(1, 3), size)
        at = rng.randrange(0, (size - length) // 512 + 1) * 512
        verb = rng.choice([f"write -q -P {rng.randint(1, 255)}"] * 5 +
                          ["write -q -z", "write -q -z -u", "write -q -P 0", "discard -q"])
        commands.append(f"{verb} {at} {length}")
    qemu_io(path, commands, image_format)


def qemu_io(path, commands, image_format="qcow2"):
    """Runs qemu-io COMMANDS on the image; one that fails fails the test."""
    # From stdin the prompt would be echoed and errors lost; with -c they end in the exit status.
    argv = []
    for command in commands:
        argv += ["-c", command]
    run("qemu-io", "-d", "unmap", "-f", image_format, *argv, path)


def raw_bytes(image, path):
    """Returns every byte of IMAGE (a file or an NBD URI), converted to PATH."""
    run("qemu-img", "convert", "-O", "raw", image, path)
    with open(path, "rb") as f:
        return f.read()


def nbd_map(uri, context="base:allocation"):
    """Returns nbdinfo's map of a meta context: [(start, end, type)], merged."""
    text = run("nbdinfo", "--json", "--map=" + context, uri)
    merged = []
    for extent in json.loads(text):
        start, end, kind = extent["offset"], extent["offset"] + extent["length"], extent["type"]
        if merged and merged[-1][2] == kind and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end, kind)
        else:
            merged.append((start, end, kind))
    return merged


def dirty_map(uri, bitmap):
    return nbd_map(uri, "qemu:dirty-bitmap:" + bitmap)


def masked(disk, dirty):
    """Returns the expected dirty-only file: the bytes of DISK where DIRTY, zeros elsewhere."""
    out = bytearray(len(disk))
    for start, end, kind in dirty:
        if kind & 1:
            out[start:end] = disk[start:end]
    return bytes(out)


def seek_walk(fd):
    """Returns the data ranges of an open file by SEEK_DATA and SEEK_HOLE."""
    ranges, at = [], 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: no data follows
            return ranges
        at = os.lseek(fd, start, os.SEEK_HOLE)
        ranges.append((start, at))


def data_ranges(extents, is_data):
    """Returns the ranges of EXTENTS whose type satisfies is_data(), merged."""
    ranges = []
    for start, end, kind in extents:
        if not is_data(kind):
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges
