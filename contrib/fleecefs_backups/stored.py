# SPDX-License-Identifier: LGPL-2.1-or-later
"""Backups stored below a folder: VMs, disks, generations, and the bases of increments.

Identity and order come from recorded data, never from clocks: the base of an increment is the image
whose restore point is the increment's base and which has the same disk_id, regardless of place and
name. Each generation has a higher number than all earlier ones at the same destination. Backups
without these data (older versions, manual ones) are matched by folder names and bases.

All input is untrusted: otherwise, anyone who can write to a repository could read files of the host
that restores.
"""
import collections
import dataclasses
import json
import os
import stat

from .text import plain

PREFIX = "user.fleecefs."
VM_FILE = "vm.json"  # beside the disks' folders
DAMAGED_FILE = "DAMAGED"  # in a disk's folder: why fleecefs-restore --check found it damaged
SHOWN = 10  # of several candidates
PARTIAL = ".partial"  # ends the names of generations that are being made
JSON_MAX = 64 << 20
JSON_ALL_MAX = 1 << 30  # all JSON files together, which stay in memory; 200,000 disks have less
SIZE_MAX = (1 << 63) - 1
NO_UUID = "00000000-0000-0000-0000-000000000000"


class Refused(Exception):
    """The restore was refused; nothing was restored."""


class Damaged(Exception):
    """A file is damaged."""


def open_regular(path):
    """Opens a regular file, without following a symbolic link; returns its descriptor."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Damaged("it is a symbolic link" if os.path.islink(path) else
                      f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damaged("it is not a regular file")
    return fd


def parse_json(data):
    """Parses DATA (bytes), which must be a JSON object."""
    try:
        said = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is not JSON: {str(error)[:80]}") from None
    if not isinstance(said, dict):
        raise Damaged("it is not a JSON object")
    return said


def read_json(path, most=JSON_MAX):
    with open(open_regular(path), "rb") as f:
        size = os.fstat(f.fileno()).st_size
        if size > JSON_MAX:
            raise Damaged("it is too large")
        if size > most:
            raise Damaged("it is too large, together with those before it")
        # Not JSON_MAX: Python allocates the requested size for each file.
        return parse_json(f.read(size))


def member(said, name, kind, default):
    """Returns said[name], or DEFAULT; raises Damaged unless it has type KIND."""
    value = said.get(name, default)
    if not isinstance(value, (kind, type(default))) or isinstance(value, bool):
        raise Damaged(f"its '{name}' is odd")
    return value


@dataclasses.dataclass(frozen=True)
class Vm:
    """The VM of a disk, as far as recorded."""
    uuid: str = ""
    source: str = ""
    name: str = ""

    def __bool__(self):
        return bool(self.uuid or self.source)

    def is_same(self, other):
        """Compares by UUID if both have one: sockets move, and VMs may share a name."""
        if self.uuid and other.uuid:
            return self.uuid == other.uuid
        return self.source == other.source

    def __str__(self):
        return ", ".join(filter(None, (self.name, self.uuid and f"UUID {self.uuid}", self.source)))


class Vms:
    """Distinct VMs, found in constant time. Add those with a UUID first."""

    def __init__(self):
        self._by_uuid, self._plain, self._by_source = {}, {}, collections.defaultdict(list)

    def find(self, vm):
        """Returns those that VM is the same as (Vm.is_same)."""
        if not vm.uuid:
            return self._by_source.get(vm.source, [])
        found = (self._by_uuid.get(vm.uuid), self._plain.get(vm.source))
        return [v for v in found if v]

    def add(self, vm):
        (self._by_uuid if vm.uuid else self._plain)[vm.uuid or vm.source] = vm
        self._by_source[vm.source].append(vm)


def vm_of(said):
    """Returns the Vm recorded in vm.json or info.json."""
    vm = member(said, "vm", dict, {})
    uuid = member(vm, "uuid", str, "").lower()
    return Vm("" if uuid == NO_UUID else uuid, member(vm, "source", str, ""),
              member(said, "called", str, "") or member(vm, "name", str, ""))


def number_of(said):
    """Returns the generation's number in vm.json; -1 if there is none."""
    number = said.get("number")
    return number if type(number) is int and number >= 0 else -1


def disks_of(said):
    """Returns the disks in vm.json: name to (restore point, disk_id, generations needed)."""
    disks = said.get("disks")
    found = {}
    for name, disk in disks.items() if isinstance(disks, dict) else ():
        if isinstance(disk, dict):
            needs = disk.get("needs")
            found[name] = (disk.get("restore_point"), disk.get("disk_id"),
                           [str(n) for n in needs] if isinstance(needs, list) else [])
    return found


@dataclasses.dataclass(eq=False)
class Image:
    """A full backup or an increment of one disk."""
    path: str
    home: str  # several forms of one disk share a home
    disk: str  # the name of its folder
    size: int
    time: str
    point: str  # its restore point; "" if nothing can be based on it
    base: str  # what it is relative to; "" if it is full
    disk_id: str = ""
    vm: Vm = Vm()
    generation: str = ""  # its name
    number: int = -1  # of the generation; -1: none was recorded
    damage: str = ""  # what a check has found
    bases: tuple = ()  # the images that it can lie on, once Stored has found them

    @property
    def form(self):
        """qcow2, raw, or split (a folder of pieces)."""
        return os.path.basename(self.path).rpartition(".")[2]

    @property
    def map(self):
        return self.path.removesuffix("raw") + "ddrescue"


def attributes(path):
    return {name.removeprefix(PREFIX): os.getxattr(path, name, follow_symlinks=False).decode()
            for name in os.listxattr(path, follow_symlinks=False) if name.startswith(PREFIX)}


class Stored:
    """All images below a folder.

    `images` are sorted, oldest first. `damaged`: (path, why) of unreadable parts of backups;
    `unknown`: (path, why) of files that look like disks but belong to no backup.
    """

    def __init__(self, top):
        if not os.path.isdir(top):
            raise Refused(f"{top} does not exist" if not os.path.lexists(top) else
                          f"{top} is not a folder")
        self.top = os.path.abspath(top)
        self.images, self.damaged, self.unknown = [], [], []
        self.generations = []  # folders with a vm.json
        self._files = {}  # JSON files by path
        self._left = JSON_ALL_MAX  # bytes that further ones may have
        for folder, folders, names in os.walk(self.top, onerror=self._unreadable):
            # Unfinished backups are hidden, or marked by their name.
            self.unknown += [(os.path.join(folder, f), "a symbolic link") for f in folders
                             if os.path.islink(os.path.join(folder, f))]
            if "split" in folders and "info.json" in names:
                self._add(os.path.join(folder, "split"))
                folders.remove("split")
            folders[:] = sorted(f for f in folders if not f.startswith(".")
                                and not f.endswith(PARTIAL))
            if VM_FILE in names:
                self.generations.append(folder)
            for name in names:
                if name.endswith((".qcow2", ".raw")) and not name.startswith("."):
                    self._add(os.path.join(folder, name))
        self._find_vms()
        self._find_bases()
        self._sort()

    def _unreadable(self, error):
        self.damaged.append((error.filename, f"cannot be read: {error.strerror}"))

    def _add(self, path):
        try:
            image = self._read_image(path)
            if isinstance(image, Image):
                self.images.append(image)
            else:
                self.unknown.append((path, image))
        except (Damaged, OSError, ValueError) as why:
            self.damaged.append((path, plain(why)))

    def without_image(self):
        """Returns (path, why) of the disks that are in vm.json of a generation, but have no image."""
        homes, found = {i.home for i in self.images}, []
        for folder in self.generations:
            try:
                names = disks_of(self.json(os.path.join(folder, VM_FILE)))
            except Damaged:
                continue  # is reported with its images
            found += [(os.path.join(folder, n), "it has no image") for n in names
                      if os.path.join(folder, n) not in homes
                      and not any(p.startswith(os.path.join(folder, n) + "/") for p, _ in self.damaged)]
        return found

    def json(self, path):
        """Returns the contents of a JSON file, cached; {} if there is none. Reports faults each time."""
        if path not in self._files:
            try:
                there = os.path.lexists(path)
                self._files[path] = read_json(path, self._left) if there else {}
                self._left -= os.path.getsize(path) if there else 0
            except Damaged as why:
                self._files[path] = Damaged(f"{os.path.relpath(path, self.top)}: {why}")
        if isinstance(self._files[path], Damaged):
            raise self._files[path]
        return self._files[path]

    def _read_image(self, path):
        """Reads the image at PATH; returns a word if it is not a backup, or an increment since a foreign
        bitmap, which belongs to no chain."""
        folder, file = os.path.split(path)
        if file == "split":
            if os.path.islink(path):
                raise Damaged("it is a symbolic link")
        else:
            os.close(open_regular(path))
        dirty = os.path.basename(folder) == "dirty"
        home = os.path.dirname(folder) if dirty else folder
        said, vm_said = {}, {}
        if dirty or file == "split" or file.startswith("disk."):
            said = self.json(os.path.join(home, "info.json"))
            vm_said = self.json(os.path.join(os.path.dirname(home), VM_FILE))
        if said:
            size, disk = member(said, "size", int, -1), os.path.basename(home)
            contexts = [c for c in member(said, "contexts", list, []) if isinstance(c, dict)]
            if dirty and not any("base" in c and c.get("bitmap") == os.path.splitext(file)[0]
                                 for c in contexts):
                return "relative to a foreign bitmap"
        else:
            said = attributes(path)
            if "disk_size" not in said:
                return "unknown: neither info.json nor extended attributes describe it"
            size, disk = int(said["disk_size"]), os.path.basename(folder)
            dirty = said.get("context", "").startswith("qemu:dirty-bitmap:")
            home = os.path.splitext(path)[0]
        if not 0 <= size <= SIZE_MAX:
            raise Damaged("the size of its disk is invalid")
        base = member(said, "base", str, "") if dirty else ""
        if dirty and not base:
            return "an increment with unknown base"
        return Image(
            path, home, disk, size, member(said, "point_in_time", str, ""),
            member(said, "restore_point", str, ""), base, member(said, "disk_id", str, ""),
            vm_of(vm_said) or vm_of(said),
            member(vm_said, "generation", str, "") or member(said, "snapshot", str, "")
            or os.path.basename(os.path.dirname(home)),
            number_of(vm_said), damage_of(home) if said else "")

    def _find_vms(self):
        """Assigns a common Vm object to images of the same VM. If the VM is not or only partly recorded,
        uses that of neighbouring images, or else the folder."""
        known = Vms()
        for vm in sorted({i.vm for i in self.images if i.vm}, key=lambda v: (not v.uuid, str(v))):
            if not known.find(vm):
                known.add(vm)
        one = {}
        for vm in {i.vm for i in self.images if i.vm}:
            same = known.find(vm)
            one[vm] = same[0] if len(same) == 1 else vm
        beside = collections.defaultdict(set)
        for image in self.images:
            if image.vm:
                image.vm = one[image.vm]
                beside[_folder_of_vm(image)].add(image.vm)
        for image in self.images:
            if not image.vm:
                folder = _folder_of_vm(image)
                there = beside.get(folder, ())
                image.vm = next(iter(there)) if len(there) == 1 else \
                    Vm(source=folder, name=os.path.basename(folder))

    def _find_bases(self):
        by_id, by_name = collections.defaultdict(list), collections.defaultdict(list)
        chosen = {}
        for image in self.images:
            if image.point:
                by_id[image.point, image.disk_id].append(image)
                by_name[image.point, image.vm, image.disk].append(image)
        for image in self.images:
            if image.base:
                key = (image.base, image.disk_id, image.vm, image.disk)
                if key not in chosen:
                    found = image.disk_id and by_id.get(key[:2])
                    # By name if one of them has no recorded identity.
                    found = found or [b for b in by_name.get((image.base, image.vm, image.disk), ())
                                      if not (b.disk_id and image.disk_id)]
                    chosen[key] = self._choose_bases(found)
                image.bases = chosen[key]

    @staticmethod
    def _choose_bases(found):
        """Returns the best of the images FOUND, and some of those in other folders."""
        # Within a folder, prefers a full backup, then a qcow2, which needs no map.
        found = sorted(found, key=lambda b: (b.base, b.form))
        others = [b for b in found if b.home != found[0].home]
        return tuple(found[:1] + others[:SHOWN])

    def find(self, point, disk_id, disk):
        """Returns the images of a disk with restore point POINT."""
        return [i for i in self.images if i.point == point
                and (i.disk_id == disk_id if i.disk_id and disk_id else i.disk == disk)]

    def _sort(self):
        """Sorts by number; images without one come after their base, otherwise by time."""
        keys = {}
        for image in self.images:
            line, seen = [image], {image}
            while line[-1].bases and line[-1].bases[0] not in keys and line[-1].bases[0] not in seen:
                line.append(line[-1].bases[0])
                seen.add(line[-1])
            for step in reversed(line):
                key = (step.number, step.time, 0)
                if step.bases and step.bases[0] in keys:
                    number, time, depth = keys[step.bases[0]]
                    key = max(key[:2], (number, time)) + (depth + 1,)
                keys[step] = key
        self.images.sort(key=lambda i: (*keys[i], i.base, i.form, i.path))
        self.keys = keys

    def vms(self):
        return sorted({i.vm for i in self.images}, key=str)

    def chain(self, image):
        """Returns the full backup below IMAGE, followed by all increments up to IMAGE."""
        chain, seen = [image], {image}
        check_damage(image)
        while chain[-1].base:
            base = self.base_of(chain[-1])
            if base in seen:
                raise Refused(f"{chain[-1].path} is based on itself")
            seen.add(base)
            chain.append(base)
        return chain[::-1]

    def base_of(self, image):
        """Returns the base of an increment."""
        if not image.bases:
            raise Refused(f"{image.path} needs restore point {image.base}, which is missing")
        check_one(image.bases)
        if image.bases[0].size != image.size:
            raise Refused(f"{image.path} and {image.bases[0].path} are of disks of different sizes")
        check_damage(image.bases[0])
        return image.bases[0]

    def faults(self):
        """Returns why each image cannot be restored, or None, in linear time."""
        faults = {}
        for image in self.images:
            line, seen = [image], set()
            try:
                check_damage(image)
                while line[-1].base and line[-1] not in faults and line[-1] not in seen:
                    seen.add(line[-1])
                    line.append(self.base_of(line[-1]))
                fault = faults.get(line[-1])
                if line[-1] in seen:
                    fault = f"{image.path} is based on itself"
            except Refused as why:
                fault = plain(why)
            for step in line:
                faults.setdefault(step, fault)
        return faults


def check_one(images):
    """Refuses IMAGES, all of the same restore point, if a backup has been copied."""
    if len({i.home for i in images}) > 1:
        raise Refused(f"several files are restore point {images[0].point} of {images[0].disk}: "
                      + ", ".join(i.path for i in images))


def damage_of(home):
    """Returns the damage recorded by fleecefs-restore --check in a disk's folder; "" if none."""
    path = os.path.join(home, DAMAGED_FILE)
    if not os.path.lexists(path):
        return ""
    with open(open_regular(path), encoding="utf-8", errors="replace") as f:
        return f.read(1000).strip() or "marked as damaged"


def check_damage(image):
    if image.damage:
        raise Refused(f"{image.path} is damaged: {image.damage}; to restore what is left, remove "
                      f"{os.path.join(image.home, DAMAGED_FILE)}")


def pieces_of(image):
    """Returns the pieces of a disk, in order: (path, start, length)."""
    names = sorted(os.listdir(image.path))
    width = max(6, len(str(len(names) - 1)))
    found, end, step = [], 0, None
    for number, name in enumerate(names):
        path = os.path.join(image.path, name)
        if name != f"{number:0{width}}":
            raise Damaged(f"piece {number:0{width}} is missing" if name.isdecimal() else
                          f"{name} is not a piece")
        held = open_regular(path)
        length = os.fstat(held).st_size
        os.close(held)
        step = length if step is None else step
        # Only the last piece may be shorter.
        if length == 0 or length > step or end % step:
            raise Damaged(f"piece {name} is not {step} bytes long")
        found.append((path, end, length))
        end += length
    if end != image.size:
        raise Damaged(f"its pieces are {end} bytes, not {image.size}")
    return found


def _folder_of_vm(image):
    """Returns the parent of the generation's folder."""
    return os.path.dirname(os.path.dirname(image.home))
