# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generations in repositories of restic and borg."""
import json
import re

from . import stored, verify
from .commands import Failed, ask, reading
from .tool import GENERATION, Tool, number_in


def listing(init, *argv):
    """Returns the output of a command that lists a repository, which the command INIT creates."""
    try:
        return ask(*argv, quiet=True)
    except Failed as why:
        if re.search("config file|does not exist|not a valid repository", str(why)):
            raise Failed(f"{why}; if the repository does not exist, create it: {init}") from None
        raise


class Restic(Tool):
    """A snapshot for each generation: disks in pieces or, without pieces, as a chain."""
    form = "split"

    def __init__(self, destination, vm):
        self.restic, self.vm, self.place = ("restic", "--quiet", "-r", destination), vm, destination
        self.known = None

    def snapshots(self):
        """Returns the number and the snapshot id of each generation."""
        if self.known is None:
            said = listing(f"restic -r {self.place} init", *self.restic, "snapshots", "--json", "--host",
                           self.vm)
            found = json.loads(said) or []
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
                  "--tag", f"number={number}", "--", *(f"../{n}" for n in mount.vm_files), *files,
                  cwd=mount.path)

    def verify(self, mount, files, name, percent):
        snapshot = self.snapshots()[name][1]
        with reading(*self.restic, "dump", "--archive", "tar", snapshot, "/") as stream:
            verify.compare_archive(mount, files, stream, percent, f"{name} of {self.place}")

    def discard(self, *names):
        if found := [self.snapshots()[n][1] for n in names if n in self.snapshots()]:
            ask(*self.restic, "forget", *found, stoppable=False)
            self.known = None

    def reclaim(self):
        ask(*self.restic, "prune")


class Borg(Tool):
    """An archive for each generation: disks in pieces or, without pieces, as a chain."""
    form = "split"

    def __init__(self, destination, vm):
        self.repository, self.prefix, self.place = destination, vm + "-", destination
        self.known = None

    def generations(self):
        if self.known is None:
            lines = listing(f"borg init --encryption=MODE {self.place}", "borg", "list", "--format",
                            "{archive}{TAB}{comment}{NL}", self.repository)
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
                  f"{self.repository}::{self.prefix}{name}", "--",
                  *(f"../{n}" for n in mount.vm_files), *files, cwd=mount.path)

    def verify(self, mount, files, name, percent):
        what = f"{self.repository}::{self.prefix}{name}"
        with reading("borg", "export-tar", what, "-") as stream:
            verify.compare_archive(mount, files, stream, percent, what)

    def discard(self, *names):
        if found := [self.prefix + n for n in names if n in self.generations()]:
            ask("borg", "delete", f"{self.repository}::{found[0]}", *found[1:], stoppable=False)
            self.known = None

    def reclaim(self):
        ask("borg", "compact", self.repository)
