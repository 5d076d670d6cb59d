# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tools that save, each with the generations of one VM at one destination.

A generation holds vm.json, which says whose it is and, of each disk, what its restore is made of:

    {"version": 1, "called": NAME, "vm": {"uuid", "name", "source"}, "generation": NAME,
     "number": N, "series": NAME, "disks": {DISK: {"mode", "restore_point", "base", "disk_id",
     "needs": [GENERATION...]}}}
"""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile

from . import stored

GENERATION = re.compile(r"\d{8}T\d{6}Z(-[0-9a-f]{16})?")
LOOK_BACK = 20  # generations of a repository that are looked into for a base


class Failed(Exception):
    """This VM was not backed up."""


class Broken(Exception):
    """An increment cannot be put on what is stored."""


def unblock():
    """In a child: commands get their signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask(*argv):
    """What a command prints; one that fails fails the VM."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          preexec_fn=unblock)
    if done.returncode != 0:
        raise Failed(f"{argv[0]} has failed: exit status {done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape")


def number_in(text):
    found = re.fullmatch(r"number=(\d{1,15})", text)
    return int(found[1]) if found else -1


def newest_first(generations):
    return sorted(generations, key=lambda name: (generations[name], name), reverse=True)


class Tool:
    """What all have in common.

    generations() is what there is, as name to number (-1: from an older version);
    describe(name) its vm.json, {} if it has none; save() adds one, discard() takes it away again.
    """

    def needs(self, disk, info):
        """The generations that an increment on the base of DISK needs, the oldest first; Broken if
        they are not all there."""
        base, known = info["base"], self.generations()
        for name in newest_first(known)[:LOOK_BACK]:
            for other, (point, disk_id, needs) in stored.disks_of(self.described(name)).items():
                same = disk_id == info["disk_id"] if disk_id and info.get("disk_id") else other == disk
                if point == base and same:
                    if missing := [n for n in needs if n not in known]:
                        raise Broken(f"its chain is broken: {missing[0]} is not in {self.place}")
                    return [*needs, name]
        raise Broken(f"{base} is not in {self.place}")

    def described(self, name):
        """Its vm.json, {} also if that is damaged."""
        try:
            return self.describe(name)
        except (stored.Damaged, OSError):
            return {}

    def owner(self):
        """Whose the newest generation is, as far as that was recorded."""
        for name in newest_first(self.generations())[:1]:
            try:
                return stored.vm_of(self.described(name))
            except stored.Damaged:
                break
        return stored.Vm()


class Files(Tool):
    """A folder for each generation, filled by cp; it has its name only when it is complete."""
    form, sparse, end = "qcow2", "auto", ""

    def __init__(self, destination, vm):
        if not os.path.isdir(destination):
            raise Failed(f"{destination} is not a folder")
        self.folder, self.place = os.path.join(destination, vm), destination

    def generations(self):
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        names = [n.removesuffix(self.end) for n in names
                 if n.endswith(self.end) and not n.startswith(".")]
        return {n: stored.number_of(self.described(n)) for n in names}

    def describe(self, name):
        path = os.path.join(self.folder, name, stored.VM_FILE)
        return stored.read_json(path) if os.path.lexists(path) else {}

    def needs(self, disk, info):
        """By what fleecefs-restore would do."""
        there = stored.Stored(self.folder) if os.path.isdir(self.folder) else None
        found = there.find(info["base"], info.get("disk_id", ""), disk) if there else []
        if not found:
            raise Broken(f"{info['base']} is not in {self.place}")
        try:
            chain = there.chain(found[0])
        except stored.Refused as why:
            raise Broken(f"its chain is broken: {why}") from None
        for image in chain:
            # What holds nothing but zeros is in blocks, too.
            if os.path.getsize(image.path) < (image.size if image.form == "raw" else 512):
                raise Broken(f"its chain is broken: {image.path} is cut off")
            if image.form == "raw" and image.base and not os.path.exists(image.map):
                raise Broken(f"its chain is broken: {image.map} is not there")
        # By the name of the folder, which somebody may have changed.
        return list(dict.fromkeys(os.path.relpath(i.path, self.folder).split("/")[0] for i in chain))

    def save(self, mount, files, name, number):
        os.makedirs(self.folder, exist_ok=True)
        self.discard_parts()
        part = os.path.join(self.folder, f".{name}.part")
        self.write(mount, files, part)
        mount.run("sync", "--file-system", self.folder)
        os.rename(part, os.path.join(self.folder, name + self.end))
        mount.run("sync", "--file-system", self.folder)

    def write(self, mount, files, part):
        for file in files:
            copy = os.path.join(part, file)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            mount.run("cp", f"--sparse={self.sparse}", "--", os.path.join(mount.path, file), copy)
        shutil.copy(mount.vm_file, os.path.join(part, stored.VM_FILE))

    def discard(self, name):
        self.discard_parts()
        if name in self.generations():
            self.remove(os.path.join(self.folder, name + self.end))

    def discard_parts(self):
        """Of this run, and of those that were killed."""
        for part in glob.glob(os.path.join(glob.escape(self.folder), ".*.part")):
            self.remove(part)

    remove = staticmethod(shutil.rmtree)


class Raw(Files):
    form, sparse = "raw", "always"


class Tar(Files):
    """An archive for each generation; its first member is vm.json."""
    end = ".tar"
    remove = staticmethod(os.unlink)
    needs = Tool.needs

    def describe(self, name):
        try:
            with tarfile.open(os.path.join(self.folder, name + self.end), "r:") as archive:
                first = archive.next()
                if first and first.isfile() and os.path.normpath(first.name) == stored.VM_FILE \
                        and first.size <= stored.JSON_MAX:
                    return stored.parse_json(archive.extractfile(first).read())
        except (tarfile.TarError, EOFError) as why:
            raise stored.Damaged(f"{name}{self.end}: {why}") from None
        return {}

    def write(self, mount, files, part):
        mount.run("tar", "-cf", part, "-C", os.path.dirname(mount.vm_file), stored.VM_FILE,
                  "-C", mount.path, "--", *files)


class Restic(Tool):
    form = "qcow2"

    def __init__(self, destination, vm):
        self.restic, self.vm, self.place = ("restic", "--quiet", "-r", destination), vm, destination
        self.known = None

    def snapshots(self):
        """Of each generation its number and the id of its snapshot."""
        if self.known is None:
            found = json.loads(ask(*self.restic, "snapshots", "--json", "--host", self.vm)) or []
            tags = [(s.get("tags") or [], s["id"]) for s in found]
            self.known = {name: (max(map(number_in, t)), i) for t, i in tags
                          for name in t if GENERATION.fullmatch(name)}
        return self.known

    def generations(self):
        return {name: number for name, (number, _) in self.snapshots().items()}

    def describe(self, name):
        number, snapshot = self.snapshots()[name]
        return {} if number < 0 else stored.parse_json(
            ask(*self.restic, "dump", snapshot, "/" + stored.VM_FILE).encode())

    def save(self, mount, files, name, number):
        self.known = None
        mount.run(*self.restic, "backup", "--host", self.vm, "--tag", name,
                  "--tag", f"number={number}", "--", f"../{stored.VM_FILE}", *files, cwd=mount.path)

    def discard(self, name):
        if name in (snapshots := self.snapshots()):
            ask(*self.restic, "forget", snapshots[name][1])


class Borg(Tool):
    form = "qcow2"

    def __init__(self, destination, vm):
        self.repository, self.prefix, self.place = destination, vm + "-", destination
        self.known = None

    def generations(self):
        if self.known is None:
            lines = ask("borg", "list", "--format", "{archive}{TAB}{comment}{NL}", self.repository)
            found = (line.partition("\t") for line in lines.splitlines())
            self.known = {name.removeprefix(self.prefix): number_in(comment)
                          for name, _, comment in found if name.startswith(self.prefix)
                          and GENERATION.fullmatch(name.removeprefix(self.prefix))}
        return self.known

    def describe(self, name):
        if self.generations()[name] < 0:
            return {}
        return stored.parse_json(ask("borg", "extract", "--stdout",
                                     f"{self.repository}::{self.prefix}{name}",
                                     stored.VM_FILE).encode())

    def save(self, mount, files, name, number):
        self.known = None
        mount.run("borg", "create", "--comment", f"number={number}",
                  f"{self.repository}::{self.prefix}{name}", "--", f"../{stored.VM_FILE}", *files,
                  cwd=mount.path)

    def discard(self, name):
        if name in self.generations():
            ask("borg", "delete", f"{self.repository}::{self.prefix}{name}")


TOOLS = {"qcow2": Files, "raw": Raw, "tar": Tar, "restic": Restic, "borg": Borg}
