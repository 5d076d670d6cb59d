"""Random disks whose dirty bitmaps QEMU keeps, and what stock tools say about them."""
import json
import os

from lib import KIB, run

# A disk ends in the middle of a cluster and of a granule, as real ones do.
ODD_SIZE = 64 * 1024 * KIB + 5 * 512


def create(path, size=ODD_SIZE, bitmaps=(), options=(), backing=None):
    """A qcow2 image with BITMAPS: names, or (name, granularity) pairs. On BACKING, another qcow2
    image, it has that one's size."""
    last = ["-b", backing, "-F", "qcow2", path] if backing else [path, size]
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, *last)
    for bitmap in bitmaps:
        add_bitmap(path, *([bitmap] if isinstance(bitmap, str) else bitmap))
    return path


def add_bitmap(path, name, granularity=64 * KIB):
    run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)


def scribble(path, rng, count, size=ODD_SIZE, image_format="qcow2"):
    """COUNT writes of data and of zeros, and discards, at random; the bitmaps record them all."""
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
    """Every byte of IMAGE (a file or an NBD URI), by way of PATH."""
    run("qemu-img", "convert", "-O", "raw", image, path)
    with open(path, "rb") as f:
        return f.read()


def nbd_map(uri, context="base:allocation"):
    """What nbdinfo says of a meta context: [(start, end, type)], neighbours of one type merged."""
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
    """The bytes of DISK where DIRTY says so, zeros elsewhere: what a dirty-only file reads as."""
    out = bytearray(len(disk))
    for start, end, kind in dirty:
        if kind & 1:
            out[start:end] = disk[start:end]
    return bytes(out)


def seek_walk(fd):
    """The data ranges of an open file by SEEK_DATA and SEEK_HOLE."""
    ranges, at = [], 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: no data follows
            return ranges
        at = os.lseek(fd, start, os.SEEK_HOLE)
        ranges.append((start, at))


def data_ranges(extents, is_data):
    """The ranges of EXTENTS for whose type is_data() is true, neighbours merged."""
    ranges = []
    for start, end, kind in extents:
        if not is_data(kind):
            continue
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges
