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
import shlex
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

    def inventory(self):
        """All generations, the newest first, as keep.split() takes them."""
        known = self.generations()
        said = {name: self.described(name) for name in newest_first(known)}
        return {name: (text.get("series"), self.needs_of(name, text, known))
                for name, text in said.items()}

    def needs_of(self, name, said, known):
        """What generation NAME, of which vm.json says SAID, needs; None: not known, or not there."""
        if stored.number_of(said) < 0:
            return None
        needs = {n for _, _, needs in stored.disks_of(said).values() for n in needs}
        return needs if needs <= set(known) else None

    def described(self, name):
        """Its vm.json, {} also if that is damaged."""
        try:
            return self.describe(name)
        except (stored.Damaged, OSError):
            return {}

    def reclaim(self):
        """Frees the room of what was discarded, where that is a step of its own."""

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
        return list(dict.fromkeys(map(self.folder_of, chain)))

    def inventory(self):
        """By what fleecefs-restore would do, which knows those of older versions, too."""
        there = stored.Stored(self.folder) if os.path.isdir(self.folder) else None
        faults, found = there.faults() if there else {}, {}
        for image in reversed(there.images if there else ()):
            name = self.folder_of(image)
            series, needs = found.get(name, (self.described(name).get("series"), set()))
            if faults[image] or needs is None:
                needs = None
            else:
                needs |= {self.folder_of(i) for i in there.chain(image)} - {name}
            found[name] = series, needs
        return found

    def folder_of(self, image):
        """The folder of its generation, whose name somebody may have changed."""
        return os.path.relpath(image.path, self.folder).split("/")[0]

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
            # Half of it is no generation.
            part = os.path.join(self.folder, f".{name}.part")
            os.rename(os.path.join(self.folder, name + self.end), part)
            self.remove(part)

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
    needs, inventory = Tool.needs, Tool.inventory

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


# Prints of each complete generation in the folder $1 its name and, after a tab, vm.json, a line.
LIST = r"""cd -- "$1" 2>/dev/null || exit 0
for f in */vm.json; do
    case $f in *.partial/vm.json) continue;; esac
    [ -f "$f" ] && printf '%s\t' "${f%/vm.json}" && head -c 1000000 -- "$f" && echo
done; :"""


class Rsync(Tool):
    """A folder for each generation, here or at HOST:FOLDER, with the disks in pieces; those that are as
    they were are hard links to the generation before."""
    form = "split"

    def __init__(self, destination, vm):
        self.place = destination
        host, colon, folder = destination.partition(":")
        self.host = host if colon and "/" not in host else ""
        self.folder = os.path.join(folder if self.host else destination, vm)
        if not self.host and not os.path.isdir(destination):
            raise Failed(f"{destination} is not a folder")

    def there(self, *argv):
        """Runs a command where the folder is; what it prints."""
        if self.host:
            # The shell there takes the words apart again.
            argv = *shlex.split(os.environ.get("RSYNC_RSH", "ssh")), self.host, shlex.join(argv)
        return ask(*argv)

    def listed(self):
        """vm.json of each generation, as text."""
        lines = self.there("sh", "-c", LIST, "sh", self.folder).splitlines()
        return {name: text for name, tab, text in (line.partition("\t") for line in lines) if tab}

    def generations(self):
        return {name: stored.number_of(self.described(name, text))
                for name, text in self.listed().items()}

    def described(self, name, text=None):
        try:
            return stored.parse_json((text or self.listed().get(name, "{}")).encode())
        except stored.Damaged:
            return {}

    def inventory(self):
        """None needs another."""
        said = {name: self.described(name, text) for name, text in self.listed().items()}
        return {name: (said[name].get("series"), set()) for name in
                newest_first({name: stored.number_of(text) for name, text in said.items()})}

    def save(self, mount, files, name, number):
        before = newest_first(self.generations())[:1]
        self.there("mkdir", "-p", "--", self.folder)
        self.discard_parts()
        part = f"{self.folder}/{name}{stored.PARTIAL}"
        remote = f"{self.host}:{part}/" if self.host else f"{part}/"
        # -s: no shell there reads the names.
        rsync = ("rsync", "-s", "--relative", "--recursive", "--times", "--sparse",
                 "--chmod=D755,F444", "--no-implied-dirs")
        # Links are to what has the same size and time: only of pieces does that mean the same content.
        mount.run(*rsync, *(f"--link-dest=../{n}" for n in before), "--",
                  *(f for f in files if f.endswith("/split")), remote, cwd=mount.path)
        mount.run(*rsync, "--", *(f for f in files if not f.endswith("/split")),
                  f"{os.path.dirname(mount.vm_file)}/./{stored.VM_FILE}", remote, cwd=mount.path)
        self.there("sync", "--file-system", self.folder)
        self.there("mv", "-T", "--", part, f"{self.folder}/{name}")
        self.there("sync", "--file-system", self.folder)

    def discard(self, name):
        self.discard_parts()
        part = f"{self.folder}/{name}{stored.PARTIAL}"
        self.there("sh", "-c", 'if [ -d "$1" ]; then mv -T -- "$1" "$2" && rm -rf -- "$2"; fi', "sh",
                   f"{self.folder}/{name}", part)

    def discard_parts(self):
        """Of this run, and of those that were killed."""
        self.there("sh", "-c", 'for p in "$1"/*.partial; do [ ! -d "$p" ] || rm -rf -- "$p"; done', "sh",
                   self.folder)


class Restic(Tool):
    """A snapshot for each generation: of disks in pieces, or, of what has none, as a chain."""
    form = "split"

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
            self.known = None

    def reclaim(self):
        ask(*self.restic, "prune")


class Borg(Tool):
    """An archive for each generation: of disks in pieces, or, of what has none, as a chain."""
    form = "split"

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
            self.known = None

    def reclaim(self):
        ask("borg", "compact", self.repository)


TOOLS = {"rsync": Rsync, "qcow2": Files, "raw": Raw, "tar": Tar, "restic": Restic, "borg": Borg}
