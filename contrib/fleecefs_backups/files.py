# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files changed where on a disk, from `fleecefs-changed --json --extents`."""
import json

SHOWN = 10  # files in a list
IN_CELL = 3  # files that a cell names


def read(path, size):
    """Returns {path of a file: [(start, end) on the disk of SIZE bytes...]}. Of hard links, uses the
    first name."""
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
                raise ValueError(f"{path}:{number} is of another disk, or is not a line of "
                                 "fleecefs-changed --json --extents")
            if extents and name is not None and inode not in seen:
                seen.add(inode)
                found.setdefault(name, []).extend(extents)
    return found


def by_cell(files, cell):
    """Returns {number of a cell of CELL bytes: label}, naming the files with most bytes in it."""
    parts = {}
    for name, extents in files.items():
        for start, end in extents:
            for i in range(start // cell, (end - 1) // cell + 1):
                inside = min(end, (i + 1) * cell) - max(start, i * cell)
                counts = parts.setdefault(i, {})
                counts[name] = counts.get(name, 0) + inside
    return {i: sorted(counts, key=lambda n: (-counts[n], n))[:IN_CELL] for i, counts in parts.items()}


def largest(files):
    """Returns [(bytes, path)...] of the files that changed most."""
    sums = ((sum(end - start for start, end in extents), name) for name, extents in files.items())
    return sorted(sums, key=lambda pair: (-pair[0], pair[1]))[:SHOWN]
