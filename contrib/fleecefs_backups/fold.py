# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removes increments from a chain: makes an image full, or relative to an earlier one in its chain.

New files are created beside the old ones, made durable, and then renamed. All generations that are
kept can be restored at any moment, even after a power failure:

1. The new image is created under a hidden name: a copy of its oldest part (a reflink on Btrfs and
   XFS, which takes neither time nor space), into which the later increments are written.
2. A file FOLDING records the operation. From here on it is always completed, by the next run if
   necessary.
3. The checksums of the new files are added to SHA256SUMS.
4. The image is renamed to its final name. A larger increment is also valid on its old base: the
   additional data is the same there.
5. info.json gets the new base, an increment beside a full image is removed, SHA256SUMS is reduced to
   the new checksums, and FOLDING is removed.

Only then may others remove what is no longer needed.
"""
import json
import os

from . import durable, making, qcow2, stored, sums

FOLDING = ".folding"
MAP_HEAD = "# Mapfile. Created by fleecefs-backup\n0x00000000     ?               1\n"


def is_foldable(image, chain):
    """Whether the increment IMAGE can get another base: all of CHAIN has the same form and the layout
    of fleecefs-backup."""
    return image.form in ("qcow2", "raw") and all(i.form == image.form for i in chain) and \
        os.path.isfile(os.path.join(image.home, "info.json")) and \
        os.path.dirname(image.path) == os.path.join(image.home, "dirty")


def copy(source, target, form):
    """Makes a writable copy, as a reflink where the file system supports it."""
    if os.path.lexists(target):
        os.unlink(target)
    making.run("cp", "--reflink=auto", "--no-preserve=all",
               f"--sparse={'always' if form == 'raw' else 'auto'}", "--", source, target)
    os.chmod(target, 0o600)


def merge_qcow2(steps, below, part):
    """Merges STEPS into PART; the first of them is full if BELOW is empty."""
    copy(steps[0].path, part, "qcow2")
    under = None
    for image in below:
        under = {**making.node("qcow2", image.path), "read-only": True, "backing": under}
    for step in steps[1:]:
        top = part + ".top"
        try:
            copy(step.path, top, "qcow2")
            # Partially written clusters are filled from BELOW.
            making.run("qemu-img", "commit", "-q", "-d", "json:" + json.dumps({
                **making.node("qcow2", top),
                "backing": {**making.node("qcow2", part), "backing": under}}))
        finally:
            if os.path.exists(top):
                os.unlink(top)


def merge_raw(steps, part):
    copy(steps[0].path, part, "raw")
    fd = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for step in steps[1:]:
            making.apply(step, fd)
    finally:
        os.close(fd)


def united(lists):
    """Returns the union of several lists of ranges (start, length), sorted."""
    found = []
    for start, length in sorted(r for ranges in lists for r in ranges):
        if found and start <= found[-1][0] + found[-1][1]:
            found[-1][1] = max(found[-1][1], start + length - found[-1][0])
        else:
            found.append([start, length])
    return found


def write_map(path, ranges, size):
    """Writes a GNU ddrescue mapfile with RANGES as its finished areas."""
    lines, end = [MAP_HEAD], 0
    for start, length in [*ranges, [size, 0]]:
        if start > end:
            lines.append(f"0x{end:08X}  0x{start - end:08X}  ?\n")
        if length:
            lines.append(f"0x{start:08X}  0x{length:08X}  +\n")
        end = start + length
    durable.write(path, "".join(lines))


def dirty_bytes(path, form, size):
    """Returns the bytes in an increment."""
    if form == "raw":
        return sum(length for _, length in making.read_map(path.removesuffix("raw") + "ddrescue", size))
    with making.opened(path) as fd:
        found = list(qcow2.extents(fd, qcow2.read_header(fd)))
    return None if None in found else sum(length for _, length, _ in found)


def fold(image, onto, chain):
    """Makes the increment IMAGE, the last of CHAIN, relative to ONTO, a member of CHAIN, or full
    (None)."""
    if not is_foldable(image, chain):
        raise stored.Refused(f"{image.path} cannot be merged with its base")
    for part in chain:
        making.check_file(part)
    first = chain.index(onto) + 1 if onto else 0
    steps, below = chain[first:], chain[:first]
    folder, disk = os.path.split(image.home)
    name = f"dirty/{os.path.basename(image.path)}" if onto else f"disk.{image.form}"
    target = os.path.join(image.home, name)
    part = durable.hidden(target)
    try:
        if image.form == "raw":
            merge_raw(steps, part)
            if onto:
                write_map(durable.hidden(durable.hidden(image.map)), united(
                    making.read_map(i.map, i.size) for i in steps), image.size)
                os.rename(durable.hidden(durable.hidden(image.map)), durable.hidden(image.map))
        else:
            merge_qcow2(steps, below, part)
        os.chmod(part, 0o444)
        durable.sync(part)
        durable.sync(os.path.dirname(part))
        durable.write_json(os.path.join(folder, FOLDING), {
            "disk": disk, "file": name, "old": os.path.basename(image.path),
            "base": onto.point if onto else None})
    except BaseException:
        for path in (part, durable.hidden(image.map)):
            if os.path.exists(path):
                os.unlink(path)
        raise
    finish(folder)


def based(info, base, bitmap, dirty):
    """Returns info.json of a disk whose increment BITMAP is relative to BASE and has DIRTY bytes, or
    which is full."""
    old = info.get("base")
    contexts = [dict(c) for c in info.get("contexts", []) if isinstance(c, dict)]
    for context in contexts:
        if context.get("base") == old and context.get("bitmap") == bitmap:
            context.pop("base")
            if base:
                context.update(base=base)
                if dirty is not None:
                    context.update(dirty_bytes=dirty)
    info = {**info, "contexts": contexts}
    if base:
        return {**info, "base": base}
    info.pop("base", None)
    return {**info, "mode": "full"}


def remove_increment(folder, bitmap):
    for form in ("qcow2", "raw", "ddrescue"):
        durable.remove(os.path.join(folder, f"{bitmap}.{form}"))
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)
        durable.sync(os.path.dirname(folder))


def finish(folder):
    """Completes the operation recorded by FOLDING in a generation's FOLDER, if any."""
    note = os.path.join(folder, FOLDING)
    if not os.path.lexists(note):
        return
    said = stored.read_json(note)
    disk, name, old, base = (said.get(k) for k in ("disk", "file", "old", "base"))
    form = str(name).rpartition(".")[2]
    if not all(isinstance(x, str) and x and x == os.path.basename(x) for x in (disk, old)) or \
            name not in (f"dirty/{old}", f"disk.{form}") or not isinstance(base, (str, type(None))):
        raise stored.Damaged(f"{note} is odd")
    home = os.path.join(folder, disk)
    target, info_path = os.path.join(home, name), os.path.join(home, "info.json")
    bitmap = os.path.splitext(old)[0]
    stem = target.removesuffix(form)
    pairs = [(durable.hidden(path), path) for path in (target, stem + "ddrescue")
             if os.path.exists(durable.hidden(path))]
    sums.expect(folder, {os.path.relpath(p, folder): sums.of_file(part) for part, p in pairs})
    for part, path in pairs:  # the image first: the old map is right for it, too
        durable.rename(part, path)
    info = stored.read_json(info_path)
    if info.get("base") != base or "base" in info and not base:
        coming = durable.hidden(info_path)
        size = stored.member(info, "size", int, 0)
        durable.write_json(coming, based(info, base, bitmap,
                                         dirty_bytes(target, form, size) if base else None))
        sums.expect(folder, {os.path.relpath(info_path, folder): sums.of_file(coming)})
        durable.rename(coming, info_path)
    if not base:
        remove_increment(os.path.join(home, "dirty"), bitmap)
    sums.settle(folder, ())
    durable.remove(note)
