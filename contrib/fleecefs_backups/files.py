# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files changed where on a disk, as `fleecefs-changed --json --extents` tells."""
import json

SHOWN = 10  # files in a list
IN_CELL = 3  # files that a cell names


def read(path, size):
    """{path of a file: [(start, end) on the disk of SIZE bytes...]}. A file with several names goes
    by the first of them."""
    found, seen = {}, set()
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                one = json.loads(line)
                extents = [(e["disk"], e["disk"] + e["length"]) for e in one.get("extents", ())]
                name, inode = one.get("path"), (one["part"], one["inode"])
                good = all(0 <= start < end <= size for start, end in extents)
            except (ValueError, KeyError, TypeError, AttributeError):
                good = False
            if not good:
                raise ValueError(f"{path}:{number} is not of this disk, or no line of "
                                 "fleecefs-changed --json --extents")
            if extents and name is not None and inode not in seen:
                seen.add(inode)
                found.setdefault(name, []).extend(extents)
    return found


def by_cell(files, cell):
    """{number of a cell of CELL bytes: what to say of it}: the files of which most is in it."""
    parts = {}
    for name, extents in files.items():
        for start, end in extents:
            for i in range(start // cell, (end - 1) // cell + 1):
                inside = min(end, (i + 1) * cell) - max(start, i * cell)
                counts = parts.setdefault(i, {})
                counts[name] = counts.get(name, 0) + inside
    return {i: sorted(counts, key=lambda n: (-counts[n], n))[:IN_CELL] for i, counts in parts.items()}


def largest(files):
    """[(bytes, path)...] of the files of which most changed."""
    sums = ((sum(end - start for start, end in extents), name) for name, extents in files.items())
    return sorted(sums, key=lambda pair: (-pair[0], pair[1]))[:SHOWN]
