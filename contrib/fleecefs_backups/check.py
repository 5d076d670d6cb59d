# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks all that is stored below a folder, and notes what is damaged.

A note, DAMAGED in a disk's folder, is what makes the next backup of that disk full, and keeps it from
being restored by mistake. A later check that finds nothing removes it.
"""
import os

from . import durable, sums
from .making import check_file
from .stored import DAMAGED_FILE, VM_FILE, Damaged, Refused, disks_of
from .text import printable


def folders_of(stored):
    """The folder of each generation to its images."""
    found = {folder: [] for folder in stored.generations}
    for image in stored.images:
        found.setdefault(os.path.dirname(image.home), []).append(image)
    return found


def check_image(image):
    """Why the files of IMAGE alone are no good; None if they are."""
    try:
        check_file(image)
    except (Refused, Damaged, OSError) as why:
        return str(why)
    return None


def check_sums(folder):
    """Of each disk's folder below a generation, and of it itself (""), what has another content than
    when it was stored; and how many files had checksums."""
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
            # What is not there is missed where it is needed: folding removes files.
            if os.path.lexists(path) and sums.of_file(path) not in digests:
                raise Damaged(f"{name} is not what was stored: its checksum differs")
        except (Damaged, OSError) as why:
            found.setdefault(top, str(why))
    return found, len(said or ())


def check_generation(folder, images, stored):
    """Of each disk's folder in a generation (or "": all of it) what is wrong; and how many files had
    checksums."""
    found, count = check_sums(folder)
    for image in images:
        if why := check_image(image):
            found.setdefault(os.path.basename(image.home), why)
    try:
        names = disks_of(stored.json(os.path.join(folder, VM_FILE)))
    except Damaged as why:
        found.setdefault("", str(why))
        names = ()
    for disk in names:
        if os.path.join(folder, disk) not in {i.home for i in images}:
            found.setdefault(disk, "there is no image of it")
    return found, count


def note(home, why):
    """Notes that the disk's folder HOME is damaged, or with None that it is not; what of that could
    not be done."""
    path = os.path.join(home, DAMAGED_FILE)
    try:
        if why:
            durable.write(path, why + "\n")
        else:
            durable.remove(path)
    except OSError as error:
        return f"; it could not be noted in {path}: {error.strerror}"
    return ""


def check(stored, say):
    """Checks all of STORED, telling SAY a line of each generation; the exit status."""
    status = 0
    for image in stored.images:
        image.damage = ""  # it is found again, or not
    for folder, images in sorted(folders_of(stored).items()):
        found, count = check_generation(folder, images, stored)
        for home in sorted({i.home for i in images}):
            if os.path.isdir(home):  # what stands alone has none
                why = found.get(os.path.basename(home))
                if why or os.path.lexists(os.path.join(home, DAMAGED_FILE)):
                    failed = note(home, why)
                    if why:
                        found[os.path.basename(home)] = why + failed
        for image in images:
            image.damage = found.get(os.path.basename(image.home), "")
        where = os.path.relpath(folder, stored.top)
        for disk, why in sorted(found.items()):
            say(f"DAMAGED  {os.path.normpath(os.path.join(where, disk))}  {printable(why)}")
        if not found:
            say(f"ok  {where}" + ("" if count else "  (no checksums were stored with it)"))
        status |= bool(found)
    for image, why in stored.faults().items():
        if why and not image.damage:
            say(f"BROKEN  {os.path.relpath(image.path, stored.top)}  {printable(why)}")
            status = 1
    for path, why in stored.damaged:
        say(f"DAMAGED  {os.path.relpath(path, stored.top)}  {printable(why)}")
        status = 1
    return status
