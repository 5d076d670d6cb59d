# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generations in tar archives: vm.json is the first member, SHA256SUMS the last.

Listing and checking read the archives directly; restoring unpacks each into a separate folder.
All input is untrusted.
"""
import dataclasses
import hashlib
import io
import os
import struct
import tarfile

from . import durable, keep, stored, sums
from .stored import Damaged
from .text import plain

END = ".tar"
NOTE = ".DAMAGED"  # appended to an archive's name: why a check found it damaged
CHUNK = 1 << 20
# Exceptions of tarfile for damaged or malicious archives.
FAULTS = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, struct.error)


class Part:
    """A file that tarfile may not read as a whole: it does so with headers of any size."""

    def __init__(self, file):
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, length):
        if length > stored.JSON_MAX:
            raise Damaged("one of its headers is too large")
        return self.file.read(length)



def name_of(member):
    return os.path.normpath(member.name.lstrip("/"))


def describe(path):
    """Returns vm.json of the archive at PATH; None if the first member is not vm.json."""
    try:
        with open(stored.open_regular(path), "rb") as f, \
                tarfile.open(fileobj=Part(f), mode="r:") as archive:
            first = archive.next()
            if first and first.isfile() and name_of(first) == stored.VM_FILE \
                    and first.size <= stored.JSON_MAX:
                return stored.parse_json(archive.extractfile(first).read())
    except FAULTS as why:
        raise Damaged(str(why)) from None
    return None


def damage_of(path):
    """Returns the damage that a check recorded for the archive at PATH; "" if none."""
    try:
        with open(stored.open_regular(path + NOTE), encoding="utf-8", errors="replace") as f:
            return f.read(1000).strip() or "marked as damaged"
    except Damaged:
        return "marked as damaged" if os.path.lexists(path + NOTE) else ""


def cut_off(path):
    """Returns why the archive at PATH is not complete; "" if it is. Reads only the headers."""
    try:
        sizes_of(path)
    except (*FAULTS, Damaged) as why:
        return f"it cannot be read to its end: {why}"
    return ""


def sizes_of(path):
    """Returns the sizes of the disks in the archive at PATH, by name, from each info.json."""
    sizes = {}
    with open(stored.open_regular(path), "rb") as f, \
            tarfile.open(fileobj=Part(f), mode="r:") as archive:
        for member in archive:
            disk, _, file = name_of(member).rpartition("/")
            if file == "info.json" and member.isfile() and member.size <= stored.JSON_MAX:
                said = stored.parse_json(archive.extractfile(member).read())
                sizes[disk] = stored.member(said, "size", int, 0)
    return sizes


def read_all(path):
    """Reads the archive at PATH. Returns the checksum of each file in it, and the contents of its
    SHA256SUMS, or None."""
    digests, said = {}, None
    try:
        sizes = sizes_of(path)
        with open(stored.open_regular(path), "rb") as f, \
                tarfile.open(fileobj=Part(f), mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.issparse():  # a few bytes of it may stand for exabytes
                    raise Damaged(f"{name_of(member)} is stored as a sparse file, unlike in backups")
                name, stream, digest = name_of(member), archive.extractfile(member), hashlib.sha256()
                sums.check_size(name, member.size, sums.most(name, sizes))
                if name == sums.FILE and member.size <= stored.JSON_MAX:
                    lines = stream.read().decode("utf-8", "surrogateescape").splitlines(keepends=True)
                    said = sums.parse(lines, name)
                    continue
                while data := stream.read(CHUNK):
                    digest.update(data)
                digests[name] = digest.hexdigest()
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except FAULTS as why:
        raise Damaged(f"it cannot be read to its end: {why}") from None
    return digests, said


def add_sums(path):
    """Appends SHA256SUMS, covering all members, to the archive at PATH."""
    digests, _ = read_all(path)
    text = sums.text({n: [d] for n, d in digests.items() if n != stored.VM_FILE}).encode(
        "utf-8", "surrogateescape")
    with tarfile.open(path, "a:") as archive:
        member = tarfile.TarInfo(sums.FILE)
        member.size, member.mode = len(text), 0o444
        archive.addfile(member, io.BytesIO(text))


@dataclasses.dataclass(eq=False)
class Archive:
    """An archive with a generation of a VM. FAULT: why it is unreadable."""
    path: str
    said: dict
    fault: str = ""
    damage: str = ""

    @property
    def generation(self):
        return os.path.basename(self.path).removesuffix(END)

    @property
    def time(self):
        time = keep.time_of(self.generation)
        return time.strftime("%Y-%m-%dT%H:%M:%S%z") if time else ""

    @property
    def needs(self):
        """Returns the names of the archives in its folder that it depends on."""
        return {n for _, _, needs in stored.disks_of(self.said).values() for n in needs}

    def check(self):
        """Returns how it differs from what was stored, or "", and the number of files with checksums."""
        try:
            digests, said = read_all(self.path)
        except (Damaged, OSError) as why:
            return plain(why), 0
        for name, expected in sorted((said or {}).items()):
            if digests.get(name) not in expected:
                return f"{name} has changed" + (
                    ": its checksum differs" if name in digests else ": it is missing"), len(said)
        for disk in stored.disks_of(self.said):
            if not any(n.startswith(f"{disk}/") and n.endswith((".qcow2", ".raw")) for n in digests):
                return f"it has no image of {disk}", 0
        return "", len(said or ())


class Archives:
    """All archives below a folder, oldest first."""

    def __init__(self, top):
        self.top, self.all = os.path.abspath(top), []
        for folder, folders, names in os.walk(self.top):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(names):
                if name.endswith(END) and not name.startswith("."):
                    self._add(os.path.join(folder, name))
        self.all.sort(key=lambda a: (os.path.dirname(a.path), stored.number_of(a.said), a.generation))
        self._by_path = {a.path: a for a in self.all}

    def _add(self, path):
        try:
            said = describe(path)
        except (Damaged, OSError) as why:
            # It may be any archive, not a backup.
            if keep.time_of(os.path.basename(path)):
                self.all.append(Archive(path, {}, f"cannot be read: {plain(why)}"))
            return
        if said is not None:
            self.all.append(Archive(path, said, damage=damage_of(path)))

    def fault_of(self, archive):
        """Returns why ARCHIVE cannot be restored; None if no fault is known."""
        if archive.fault or archive.damage:
            return archive.fault or f"it is damaged: {archive.damage}"
        for name in sorted(archive.needs):
            other = self._by_path.get(os.path.join(os.path.dirname(archive.path), name + END))
            if other is None:
                return f"it needs {name}, which is missing"
            if other.fault or other.damage:
                return f"it needs {name}, which is damaged"
        return None

    def rows(self):
        """Rows for --list: one for each disk of each archive."""
        for archive in self.all:
            try:
                vm = stored.vm_of(archive.said)
            except Damaged as why:
                vm, archive.fault = stored.Vm(), str(why)
            disks = archive.said.get("disks")
            for disk, said in disks.items() if isinstance(disks, dict) else ():
                said = said if isinstance(said, dict) else {}
                base, point = (str(said.get(k) or "") for k in ("base", "restore_point"))
                yield {"time": archive.time, "vm": vm.name, "uuid": vm.uuid, "disk": disk,
                       "generation": archive.generation, "restore_point": point, "base": base,
                       "path": archive.path, "fault": self.fault_of(archive)}

    def broken(self):
        """Archives without any known disk: (path, why)."""
        return [(a.path, a.fault) for a in self.all if a.fault and not a.said]

    def check(self, say):
        """Reads all archives, calls SAY with a line for each; returns the exit status."""
        status, counts = 0, {}
        for archive in self.all:
            if not archive.fault:
                archive.damage, counts[archive] = archive.check()
            failed = durable.mark(archive.path + NOTE, archive.fault or archive.damage)
            if archive.damage:
                archive.damage += failed
        for archive in self.all:
            where, why = os.path.relpath(archive.path, self.top), archive.fault or archive.damage
            if why:
                say(f"DAMAGED  {where}  {why}")
            elif why := self.fault_of(archive):
                say(f"BROKEN  {where}  {why}")
            else:
                say(f"ok  {where}" + ("" if counts[archive] else
                                      "  (no checksums stored)"))
            status |= bool(why)
        return status
