# SPDX-License-Identifier: LGPL-2.1-or-later
"""Backs up one VM: mounts a snapshot, saves it with a tool, and commits or aborts it."""
import os
import re
import secrets
import time

from . import machine, stored, sums
from .commands import Failed, interruptible, log, tell
from .mount import Mount
from .text import human
from .tool import Broken
from .tools import TOOLS


def generation_of(disks):
    """Returns the name of the generation. With older daemons: the restore point, without the disk's
    size that may follow. A VM that is shut off has no new restore point, so that nothing is ever based
    on its backup."""
    if names := {d["snapshot"] for d in disks.values() if "snapshot" in d}:
        return max(names)
    points = {d["restore_point"] if re.search("-[0-9a-f]{16}$", d["restore_point"])
              else d["restore_point"].split("-")[0]
              for d in disks.values() if "restore_point" in d}
    times = {re.sub(r"\.\d+|[:-]", "", d["point_in_time"]) for d in disks.values()}
    return max(points or times)


def new_id():
    """Makes a generation name like the daemon's, for images: no increment is based on it."""
    return time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()) + secrets.token_hex(8)


def increment_of(info, series):
    """Returns the bitmap of a disk's increment, named after its series if a snapshot was taken; None
    if there is none."""
    bitmaps = [c["bitmap"] for c in info["contexts"] if "base" in c and c["base"] == info.get("base")]
    return series if series in bitmaps else bitmaps[0] if bitmaps else None


def has_pieces(mount, disks):
    return all(os.path.isdir(os.path.join(mount.path, disk, "split")) for disk in disks)


def saved_bytes(info, bitmap):
    """Returns the bytes of a disk to save: of its increment BITMAP, or of all data."""
    if bitmap is not None:
        return sum(c["dirty_bytes"] for c in info["contexts"] if c.get("bitmap") == bitmap)
    return sum(c.get("data_bytes", 0) for c in info["contexts"])


def choose(disks, series, form):
    """Returns the files to save, and the report's entry for each disk."""
    files, rows = [], []
    for name, info in disks.items():
        files.append(f"./{name}/info.json")  # no name is an option
        bitmap = increment_of(info, series)
        if bitmap is not None and form != "split":
            files.append(f"./{name}/dirty/{bitmap}.{form}")
            if form == "raw":
                files.append(f"./{name}/dirty/{bitmap}.ddrescue")
        else:
            files.append(f"./{name}/split" if form == "split" else f"./{name}/disk.{form}")
        rows.append({"name": name, "size": info["size"], "bytes": saved_bytes(info, bitmap),
                     "mode": "full" if bitmap is None else "incremental",
                     **({"base": info["base"]} if bitmap is not None else {}),
                     **({"reason": info["reason"]} if "reason" in info else {})})
    return files, rows


def words_for(rows):
    return "; ".join(f"{row['name']} {'since ' + row['base'] if 'base' in row else 'full'}, "
                     f"{human(row['bytes'])}" for row in rows)


def check_owner(tool, vm, disks, chained):
    """Returns the VM's identity to record; raises Failed if backups under its name are another VM's.

    CHAINED: an increment continues an existing chain, which is sufficient proof.
    """
    said = next((d["vm"] for d in disks.values() if "vm" in d), {})
    here, there = stored.vm_of({"vm": {**said, "source": vm.place}}), tool.owner()
    if not there or here.is_same(there):
        return here
    if not here.uuid and (chained or vm.is_image and vm.given):
        return there
    raise Failed(f"{tool.place} has backups of another VM under this name: {there}, not {here}; "
                 "choose another name (NAME=SOURCE)")


def describe(vm, who, name, number, disks, needs, args):
    """Returns vm.json of a generation."""
    return {"version": 1, "called": vm.name,
            "vm": {"uuid": who.uuid, "name": who.name, "source": who.source},
            "generation": name, "number": number, "series": args.series,
            **({"image": vm.source} if vm.is_image else {}), "disks": {
                disk: {**{k: info[k] for k in ("mode", "restore_point", "base", "disk_id")
                          if k in info}, "needs": needs.get(disk, [])}
                for disk, info in disks.items()}}


def chains_of(tool, disks, series):
    """Returns the generations that each increment needs, and why one is unusable, or None."""
    needs = {}
    for disk, info in disks.items():
        if increment_of(info, series) is not None:
            try:
                needs[disk] = tool.needs(disk, info)
            except Broken as why:
                return {}, f"{disk}: {why}"
    return needs, None


def whole(info):
    """Returns info.json of a disk that is to be saved in full."""
    return {**{k: v for k, v in info.items() if k != "base"}, "mode": "full"}


# Options for taking snapshots: not for images.
SNAPSHOT_OPTIONS = {"scratch", "scratch_encrypt", "agent", "agent_optional", "freeze_timeout", "nbd",
                    "nbd_tls", "nbd_listen", "read_only", "disk", "since"}


def options_for(vm, text):
    """Returns the options of one -o that apply to VM, as strings."""
    return [o for o in re.split(r"(?<!\\),", text)
            if o and not (vm.is_image and o.split("=")[0] in SNAPSHOT_OPTIONS)]


def options_of(vm, args):
    """Returns the options of fleecefs for VM."""
    options = [f"--option={o}" for text in args.option for o in options_for(vm, text)]
    options += [f"--rate={args.rate}"] if args.rate else []
    if vm.domain and not any(o.startswith("--option=disk=") for o in options):
        if said := machine.known(vm):
            options += machine.disks_but(said[1], "--option=read_only" in options)
    if not vm.is_image:
        options += [f"--series={args.series}"] + ["--full"] * args.full
    elif args.series != "last":
        options += [f"--series={args.series}"]
    return options


def begin(vm, tool, mount, args):
    """Mounts the VM so that existing chains can continue. Returns info.json of each disk, the form to
    save, and the generations that each increment needs."""
    options = options_of(vm, args)
    disks = mount.begin(vm.source, options)
    form = tool.form
    if form == "split" and not has_pieces(mount, disks):
        if args.tool == "rsync":
            raise Failed("this fleecefs is too old for rsync: it has no disks in pieces")
        form = "qcow2"
    # In pieces, each generation is complete.
    needs, fault = ({}, None) if form == "split" else chains_of(tool, disks, args.series)
    if vm.is_image and (args.full or fault):
        disks = {disk: whole(info) for disk, info in disks.items()}
    if fault:
        log(f"{vm.name}: a full backup, because {fault}")
        if not vm.is_image:
            mount.end("--abort")
            disks = mount.begin(vm.source, options + ["--full"])
    if odd := [d for d in disks if d in (stored.VM_FILE, sums.FILE, sums.SPARSE, *machine.FILES)]:
        raise Failed(f"disk {odd[0]} has the name of a file in the backup; give it another "
                     "node name")
    return disks, form, needs


def back_up(vm, args, report):
    """Backs up one VM and fills in REPORT; returns the exit status of the commit."""
    tool = TOOLS[args.tool](args.destination, vm.file)
    mount = Mount(vm, args.jobs == 1 and not args.quiet)
    known = tool.generations()
    name = None
    try:
        mount.capture(vm)
        disks, form, needs = begin(vm, tool, mount, args)
        missing = mount.missing()
        for note in vm.notes:
            log(f"{vm.name}: {note}")
        who = check_owner(tool, vm, disks, bool(needs))
        called = new_id() if vm.is_image else generation_of(disks)
        if called in known:
            raise Failed(f"{called} exists already")
        name = called  # from here on there may be something to discard
        number = max([-1, *known.values()]) + 1
        mount.describe(describe(vm, who, name, number, disks, needs, args))
        files, rows = choose(disks, args.series, form)
        report.update(generation=name, uuid=who.uuid, disks=rows, bytes=sum(r["bytes"] for r in rows),
                      **({"missing_disks": missing} if missing else {}))
        tell(f"{vm.name}: {name}: {words_for(rows)}")
        tool.save(mount, files, name, number)
        if args.verify:
            with interruptible():
                tool.verify(mount, files, name, args.verify)
            report.update(verified=args.verify)
        status = mount.end("--abort" if vm.is_image else "--commit")
        if status not in (0, 3):
            raise Failed("the snapshot could not be committed")
    except BaseException:
        report.update(generation=None)
        try:
            if name:
                tool.undo(name)
        finally:
            mount.end("--abort")
        raise
    if missing:
        log(f"{vm.name}: {name}: done, but without {', '.join(missing)}: see above why; if that is intended, "
            "give the other disks with -o disk=")
        return 3
    tell(f"{vm.name}: {name}: done")
    return status
