# SPDX-License-Identifier: LGPL-2.1-or-later
"""Selects stored images by the command line."""
import os

from . import text
from .stored import Refused


def words_for(vms):
    return "; ".join(str(v) for v in vms)


def of_vm(stored, name):
    """Returns the images of the only VM, or of the one given by --vm."""
    vms = stored.vms()
    if name is not None:
        found = [v for v in vms if name in (v.name, v.uuid, v.source)
                 or text.file_name(name) in {os.path.basename(os.path.dirname(os.path.dirname(i.home)))
                                             for i in stored.images if i.vm is v}]
        if not found:
            raise Refused(f"no VM {name}; stored VMs: {words_for(vms)}")
        vms = found
    if len(vms) > 1:
        raise Refused(f"there are several VMs, choose one with --vm: {words_for(vms)}")
    return [i for i in stored.images if i.vm in vms]


def at_generation(images, at):
    """Returns those of IMAGES that are of generation AT or, if AT is a time, not newer."""
    named = [i for i in images if i.point.startswith(at) or i.generation.startswith(at)
             or at in i.path.split("/")]
    if named:
        if len({(i.generation, i.number) for i in named}) > 1 and \
                len({(i.point, i.time) for i in named}) > 1:
            raise Refused(f"{at} matches several generations; see --list")
        return named
    end = text.end_of(at)
    if end is None:
        return [i for i in images if i.time.startswith(at)]
    return [i for i in images if (taken := text.moment(i.time)) and taken < end]


def count_disks(images):
    """Counts the disks of IMAGES, by identity: a disk may have been renamed."""
    known = []
    for image in images:
        marks = {("name", image.disk)} | ({("identity", image.disk_id)} if image.disk_id else set())
        same = [k for k in known if k & marks]
        known = [k for k in known if not k & marks] + [marks.union(*same)]
    return len(known)


def choose(stored, args):
    """Returns the image selected by the user."""
    images = of_vm(stored, args.vm)
    if args.at is None and stored.damaged:
        path, why = stored.damaged[0]
        raise Refused(f"{path} is damaged: {why}; choose another generation with --at")
    if args.at is not None:
        images = at_generation(images, args.at)
    if not images:
        raise Refused("there is no such backup" + (f" as '{args.at}'" if args.at else "") + "; see --list")
    newest = images[-1]  # of all disks
    disks = sorted({i.disk for i in images if i.generation == newest.generation}
                   if args.at is None else {i.disk for i in images})
    wanted = [i for i in images if args.disk in (None, i.disk, i.disk_id)]
    if not wanted:
        raise Refused(f"no such backup of a disk {args.disk}; disks: "
                      f"{', '.join(sorted({i.disk for i in images}))}; see --list")
    if args.disk is None and (len(disks) > 1 or (args.at is None and count_disks(images) > 1)):
        raise Refused("there are several disks, choose one with --disk: "
                      + ", ".join(sorted({i.disk for i in images})))
    last = wanted[-1]
    if args.at is None and last.generation != newest.generation:
        raise Refused(f"{last.disk} is not in the newest generation, {newest.generation}, which has "
                      f"{', '.join(disks)}; use --at {last.generation}")
    # Of several forms, or a full backup and an increment: the one with fewest dependencies.
    same = [i for i in wanted if i.generation == last.generation and i.point == last.point
            and i.disk == last.disk]
    if len({i.home for i in same}) > 1:
        raise Refused(f"several files are {last.disk} of {last.generation}: "
                      + ", ".join(i.path for i in same))
    return min(same, key=lambda i: (i.base, i.form))


def choose_all(stored, args):
    """Returns the images of all disks of one generation: the newest, or that of --at."""
    images = of_vm(stored, args.vm)
    if args.at is not None:
        images = at_generation(images, args.at)
    if not images:
        raise Refused("there is no such backup" + (f" as '{args.at}'" if args.at else "") + "; see --list")
    chosen = {}
    for image in images:
        if image.generation == images[-1].generation:
            # Of several forms: the one with fewest dependencies.
            chosen[image.home] = min(chosen.get(image.home, image), image,
                                     key=lambda i: (i.base, i.form))
    if len({os.path.dirname(home) for home in chosen}) > 1:
        raise Refused(f"generation {images[-1].generation} is in several folders: "
                      + ", ".join(sorted(chosen)))
    return list(chosen.values())
