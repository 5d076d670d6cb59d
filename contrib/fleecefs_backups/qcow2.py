# SPDX-License-Identifier: LGPL-2.1-or-later
"""The clusters of a qcow2 image; format: docs/interop/qcow2 of QEMU.

qemu-img needs a process per query and a nesting level per increment; a chain of thousands needs
neither here. All values are checked against the file's size.
"""
import array
import os
import struct
import sys
from typing import NamedTuple

MAGIC = 0x514649fb
DIRTY, CORRUPT, DATA_FILE = 1, 2, 4  # incompatible features
OFFSET = 0x00fffffffffffe00
COMPRESSED, ZERO = 1 << 62, 1
REFCOUNTS_MAX = 8 << 20  # QEMU's limit for their table


class Damaged(Exception):
    """The image is damaged."""


class Header(NamedTuple):
    version: int
    cluster: int
    size: int
    encrypted: bool
    backed: bool
    incompatible: int
    l1_size: int
    l1_offset: int

    @property
    def plain(self):
        """Whether extents() can read it."""
        return not self.encrypted and not self.incompatible


def read_exactly(fd, offset, length):
    data = os.pread(fd, length, offset)
    if len(data) != length:
        raise Damaged("it is truncated")
    return data


def read_header(fd):
    fields = struct.unpack(">IIQIIQIIQ", read_exactly(fd, 0, 48))
    magic, version, backing, _, bits, size, crypt, l1_size, l1_offset = fields
    if magic != MAGIC or version not in (2, 3):
        raise Damaged("it is not a qcow2")
    if not 9 <= bits <= 21 or l1_size > 4 << 20 or size >= 1 << 63:
        raise Damaged("its header is invalid")
    incompatible = struct.unpack(">Q", read_exactly(fd, 72, 8))[0] if version == 3 else 0
    return Header(version, 1 << bits, size, crypt != 0, backing != 0, incompatible, l1_size,
                  l1_offset)


def read_table(fd, offset, entries):
    table = array.array("Q", read_exactly(fd, offset, entries * 8))
    if sys.byteorder == "little":
        table.byteswap()
    return table


def check_tables(fd, header):
    """Raises Damaged if there are more references to L2 tables than clusters: to follow them all would
    take years."""
    tables = sum(1 for l1 in read_table(fd, header.l1_offset, header.l1_size) if l1 & OFFSET)
    if tables > os.fstat(fd).st_size // header.cluster:
        raise Damaged("its tables are invalid")


def last_cluster(fd, header):
    """Returns where the last allocated cluster begins, according to the reference counts."""
    offset, clusters = struct.unpack(">QI", read_exactly(fd, 48, 12))
    order = struct.unpack(">I", read_exactly(fd, 96, 4))[0] if header.version == 3 else 4
    if order > 6 or clusters * header.cluster > REFCOUNTS_MAX:
        raise Damaged("its header is invalid")
    table = read_table(fd, offset, clusters * header.cluster // 8)
    for i in reversed(range(len(table))):
        if table[i] & OFFSET and (counts := read_exactly(fd, table[i] & OFFSET,
                                                         header.cluster).rstrip(b"\0")):
            at = i * (header.cluster * 8 >> order) + ((len(counts) - 1) * 8 >> order)
            return at * header.cluster
    return 0


def check_end(fd, header):
    """Raises Damaged if the image is cut off; reads little of it."""
    if os.fstat(fd).st_size <= last_cluster(fd, header):
        raise Damaged("it is truncated")


def extents(fd, header):
    """Yields allocated extents in order: (start on the disk, length, offset in the file or None: zeros).

    Raises Damaged where QEMU would fail; yields None for compressed data.
    """
    end, cluster = os.fstat(fd).st_size, header.cluster
    per_table = cluster // 8
    start = length = place = 0
    for i, l1 in enumerate(read_table(fd, header.l1_offset, header.l1_size)):
        if not l1 & OFFSET:
            continue
        for j, entry in enumerate(read_table(fd, l1 & OFFSET, per_table)):
            if not entry & (OFFSET | ZERO | COMPRESSED):
                continue
            if entry & COMPRESSED:
                yield None
                return
            at = None if entry & ZERO else entry & OFFSET
            disk = (i * per_table + j) * cluster
            if disk >= header.size:
                break
            if at is not None and (at % cluster or at + cluster > end):
                raise Damaged("it is truncated")
            # Contiguous with the previous extent, on the disk and in the file.
            if length and disk == start + length and \
                    (at is place is None or None not in (at, place) and at == place + length):
                length += cluster
                continue
            if length:
                yield start, length, place
            start, length, place = disk, cluster, at
    if length:
        yield start, min(length, header.size - start), place
