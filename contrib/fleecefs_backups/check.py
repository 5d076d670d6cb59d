# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks everything stored below a folder, and marks damage.

The mark, a file DAMAGED in a disk's folder, makes the next backup of that disk full, and prevents
restoring it by mistake. A later check that finds no damage removes it.
"""
import os

from . import durable, sums
from .making import check_file
from .stored import DAMAGED_FILE, VM_FILE, Damaged, Refused, disks_of
from .text import plain, printable


def folders_of(stored):
    """Maps the folder of each generation to its images."""
    found = {folder: [] for folder in stored.generations}
    for image in stored.images:
        found.setdefault(os.path.dirname(image.home), []).append(image)
    return found


def check_image(image):
    """Returns why the files of IMAGE are damaged, regardless of its base; None if they are intact."""
    try:
        check_file(image)
    except (Refused, Damaged, OSError) as why:
        return plain(why)
    return None


def check_sums(folder, sizes, damaged):
    """Returns what has changed since it was stored, per disk folder of a generation ("": the generation
    itself), and the number of files with checksums. SIZES has the sizes of the disks. Does not read
    the images in DAMAGED: their tables do not tell any more how long they should be."""
    found = {}
    try:
        said = sums.read(folder)
    except Damaged as why:
        return {"": str(why)}, 0
    for name, digests in sorted((said or {}).items()):
        if name.startswith("/") or ".." in name.split("/"):
            found.setdefault("", f"{sums.FILE} names {name}")
            continue
        path, top = os.path.join(folder, name), name.rpartition("/")[0].partition("/")[0]
        try:
            # Folding removes files; missing files are reported where they are needed.
            if path in damaged or not os.path.lexists(path):
                continue
            if sums.of_file(path, sums.most(name, sizes)) not in digests:
                raise Damaged(f"{name} has changed: its checksum differs")
        except (Damaged, OSError) as why:
            found.setdefault(top, plain(why))
    return found, len(said or ())


def check_generation(folder, images, stored):
    """Returns the damage per disk folder of a generation ("": all of it), and the number of files with
    checksums."""
    faults = {image: why for image in images if (why := check_image(image))}
    found, count = check_sums(folder, {os.path.basename(i.home): i.size for i in images},
                              {image.path for image in faults})
    for image, why in faults.items():
        found.setdefault(os.path.basename(image.home), why)
    try:
        names = disks_of(stored.json(os.path.join(folder, VM_FILE)))
    except Damaged as why:
        found.setdefault("", plain(why))
        names = ()
    for disk in names:
        if os.path.join(folder, disk) not in {i.home for i in images}:
            found.setdefault(disk, "it has no image")
    return found, count


def check(stored, say):
    """Checks all of STORED, calls SAY with a line for each generation; returns the exit status."""
    status = 0
    for image in stored.images:
        image.damage = ""  # determined anew
    for folder, images in sorted(folders_of(stored).items()):
        found, count = check_generation(folder, images, stored)
        for home in sorted({i.home for i in images}):
            if os.path.isdir(home):  # a single image has no folder
                why = found.get(os.path.basename(home))
                failed = durable.mark(os.path.join(home, DAMAGED_FILE), why)
                if why:
                    found[os.path.basename(home)] = why + failed
        for image in images:
            image.damage = found.get(os.path.basename(image.home), "")
        where = os.path.relpath(folder, stored.top)
        for disk, why in sorted(found.items()):
            say(f"DAMAGED  {os.path.normpath(os.path.join(where, disk))}  {printable(why)}")
        if not found:
            say(f"ok  {where}" + ("" if count else "  (no checksums stored)"))
        status |= bool(found)
    for image, why in stored.faults().items():
        if why and not image.damage:
            say(f"BROKEN  {os.path.relpath(image.path, stored.top)}  {printable(why)}")
            status = 1
    for path, why in stored.damaged:
        say(f"DAMAGED  {os.path.relpath(path, stored.top)}  {printable(why)}")
        status = 1
    return status
