# SPDX-License-Identifier: LGPL-2.1-or-later
"""Restores a whole VM: its disks, its NVRAM and TPM, and its domain in libvirt.

Uses the stored domain definition, with the new paths of its files. A repository is untrusted, so
the user sees the definition before anything is started.
"""
import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import uuid
import xml.etree.ElementTree as ElementTree

from . import machine, making
from .commands import Failed
from .stored import Damaged, Refused, open_regular
from .text import file_name

XML_MAX = 16 << 20
ElementTree.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")

PART_MAX = 128 << 20  # bytes; firmware and a TPM have a few MiB


def open_part(folder, name):
    """Opens a file of a generation; refuses links to files of this host, and holes that would fill it."""
    path = os.path.join(folder, name)
    try:
        part = open_regular(path)
    except Damaged as why:
        raise Refused(f"{path} is damaged: {why}") from None
    if os.fstat(part).st_size > PART_MAX:
        os.close(part)
        raise Refused(f"{path} is damaged: it is too large")
    return part


def read_definition(folder):
    path = os.path.join(folder, machine.XML)
    if not os.path.lexists(path):
        more = f", and see {machine.QMP}" if os.path.exists(os.path.join(folder, machine.QMP)) else ""
        raise Refused(f"{folder} has no {machine.XML}, because libvirt did not manage this VM; restore its "
                      f"disks one by one{more}")
    with open(open_part(folder, machine.XML), encoding="utf-8") as f:
        try:
            return ElementTree.fromstring(f.read(XML_MAX))
        except (ElementTree.ParseError, UnicodeDecodeError) as why:
            raise Refused(f"{path} is damaged: {why}") from None


def is_known(uri, domain):
    done = subprocess.run(["virsh", *(["--connect", uri] if uri else []), "dominfo", "--domain",
                           domain], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    return done.returncode == 0


def rename(root, name, new_uuid):
    """Changes the domain's name or UUID; with a new UUID, drops the addresses that must be unique, too."""
    if name:
        root.find("name").text = name
    if new_uuid:
        element = root.find("uuid")
        if element is None:
            element = ElementTree.SubElement(root, "uuid")
        element.text = str(uuid.uuid4()) if new_uuid == "new" else new_uuid
        for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
            entry.text = element.text
        for interface in root.iterfind("devices/interface"):
            for mac in interface.findall("mac"):
                interface.remove(mac)
        for genid in root.findall("genid"):
            genid.text = None


def place_disk(disk, path, form):
    """Makes a <disk> refer to the image PATH."""
    disk.set("type", "file")
    for tag in ("source", "backingStore", "mirror", "auth", "encryption"):
        for child in disk.findall(tag):
            disk.remove(child)
    ElementTree.SubElement(disk, "source").set("file", path)
    driver = disk.find("driver")
    if driver is None:
        driver = ElementTree.SubElement(disk, "driver")
        driver.set("name", "qemu")
    driver.set("type", form)


def place_disks(root, paths, form):
    """Makes the domain's disks refer to PATHS, by target; returns messages about other disks."""
    said, left = [], dict(paths)
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target").get("dev")
        source = disk.find("source")
        if target in left:
            place_disk(disk, left.pop(target), form)
        elif disk.get("device") in ("cdrom", "floppy"):
            if source is not None and source.get("file") and not os.path.exists(source.get("file")):
                disk.remove(source)
                said.append(f"{target}: {source.get('file')} does not exist; the drive is empty")
        elif source is not None:
            where = next(iter(source.attrib.values()), "?")
            said.append(f"{target} was not backed up and still refers to {where}")
    if left:
        raise Refused(f"the definition has no disk {min(left)}: restore the disks one by one")
    return said


class Files:
    """Files being created; removed again unless all of them succeed."""

    def __init__(self):
        self.made = []

    def add(self, path):
        if os.path.lexists(path):
            raise Refused(f"{path} exists; restore to another folder, or under another --name")
        self.made.append(path)
        return path

    def discard(self):
        for path in self.made:
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)


def restore_nvram(root, folder, path):
    with open(open_part(folder, machine.NVRAM), "rb") as source, \
            open(path, "xb") as target:
        shutil.copyfileobj(source, target)
    nvram = root.find("os/nvram")
    template = {k: v for k, v in nvram.attrib.items() if k.startswith("template")}
    for child in list(nvram):
        nvram.remove(child)
    nvram.attrib.clear()
    nvram.attrib.update(template)
    nvram.text = path


def restore_tpm(folder, path):
    os.makedirs(path, mode=0o700)
    archive = open_part(folder, machine.TPM)
    try:
        done = subprocess.run(["tar", "-x", "--no-same-permissions", "-C", path], stdin=archive)
    finally:
        os.close(archive)
    if done.returncode != 0:
        raise Refused(f"{machine.TPM} could not be unpacked")
    # swtpm's state consists of regular files; the archive may contain anything.
    for top, folders, names in os.walk(path):
        for name in folders + names:
            mode = os.lstat(os.path.join(top, name)).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise Refused(f"{machine.TPM} contains {name}, which is not a regular file")


def define(chains, folder, target, args):
    """Creates the disks of CHAINS and the other state in the generation FOLDER in the folder TARGET,
    and defines the domain. Returns lines for the user."""
    root, files = read_definition(folder), Files()
    if root.findtext("name") is None or root.find("devices") is None:
        raise Refused(f"{machine.XML} is not a domain definition")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise Refused(f"{target} is not a folder")
    try:
        machine.virsh(args.connect, "uri")  # before the disks are restored for nothing
    except Failed as why:
        raise Refused(str(why)) from None
    rename(root, args.name, args.uuid)
    name = root.findtext("name")
    for known in filter(None, (name, root.findtext("uuid"))):
        if is_known(args.connect, known):
            raise Refused(f"libvirt already has a domain {known}: remove it (virsh undefine), or create a "
                          "copy with --name NAME --uuid new")
    made = not os.path.isdir(target)
    os.makedirs(target, exist_ok=True)
    stem = os.path.join(os.path.abspath(target), file_name(name))
    try:
        paths = {}
        for chain in chains:
            disk = chain[-1].disk
            paths[disk] = files.add(f"{stem}-{file_name(disk)}.{args.format}")
        said = place_disks(root, paths, args.format)
        for chain in chains:
            making.restore(chain, paths[chain[-1].disk], args.format)
        if os.path.exists(os.path.join(folder, machine.NVRAM)) and root.find("os/nvram") is not None:
            restore_nvram(root, folder, files.add(f"{stem}_VARS.fd"))
        tpm = machine.tpm_folder(root, args.connect)
        if tpm and os.path.exists(os.path.join(folder, machine.TPM)):
            restore_tpm(folder, files.add(tpm))
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as f:
            f.write(ElementTree.tostring(root, encoding="unicode"))
            f.flush()
            machine.virsh(args.connect, "define", f.name)
    except BaseException as why:
        files.discard()
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(target)
        if isinstance(why, Failed):
            raise Refused(str(why)) from None
        raise
    start = ["virsh", *(["--connect", args.connect] if args.connect else []), "start", name]
    return said + [f"{name} is defined; start it with: {shlex.join(start)}"]
