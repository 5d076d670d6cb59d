# SPDX-License-Identifier: LGPL-2.1-or-later
"""Common code of all tools that save VMs.

vm.json of a generation records its VM and, for each disk, what is needed to restore it:

    {"version": 1, "called": NAME, "vm": {"uuid", "name", "source"}, "generation": NAME,
     "number": N, "series": NAME, "disks": {DISK: {"mode", "restore_point", "base", "disk_id",
     "needs": [GENERATION...]}}}

of an image file also "image", its path.
"""
import contextlib
import os
import re

from . import stored
from .keep import Generation

GENERATION = re.compile(r"\d{8}T\d{6}Z(-[0-9a-f]{16})?")
LOOK_BACK = 20  # generations of a repository that are searched for a base


class Broken(Exception):
    """An increment does not fit onto what is stored."""


def no_folder(path):
    return f"{path} is not a folder" if os.path.lexists(path) else \
        f"{path} does not exist; create the folder first"


def number_in(text):
    found = re.fullmatch(r"number=(\d{1,15})", text)
    return int(found[1]) if found else -1


def newest_first(generations):
    return sorted(generations, key=lambda name: (generations[name], name), reverse=True)


class Tool:
    """Base class of all tools.

    generations() returns name to number (-1: made by an older version); describe(name) vm.json, {} if
    there is none. save() adds a generation, verify() compares it with the snapshot, discard() removes
    any number of generations, in the given order. undo() removes what a failed save() has left.
    """

    def undo(self, name):
        self.discard(name)

    def needs(self, disk, info):
        """Returns the generations that an increment of DISK needs, oldest first; raises Broken if any
        is missing."""
        base, known = info["base"], self.generations()
        for name in newest_first(known)[:LOOK_BACK]:
            for other, (point, disk_id, needs) in stored.disks_of(self.described(name)).items():
                same = disk_id == info["disk_id"] if disk_id and info.get("disk_id") else other == disk
                if point == base and same:
                    if missing := [n for n in needs if n not in known]:
                        raise Broken(f"its chain is broken: {missing[0]} is not in {self.place}")
                    return [*needs, name]
        raise Broken(self.missing(base))

    def missing(self, base):
        return (f"{base} is not in {self.place}; for several destinations in turn, give each a "
                "separate --series, or store pieces")

    def inventory(self):
        """Returns all generations, newest first, for keep.split()."""
        known = self.generations()
        said = {name: self.described(name) for name in newest_first(known)}
        return {name: Generation(text.get("series"), self.needs_of(name, text, known))
                for name, text in said.items()}

    def needs_of(self, name, said, known):
        """Returns what generation NAME, with vm.json SAID, needs; None: unknown or missing."""
        if stored.number_of(said) < 0:
            return None
        needs = {n for _, _, needs in stored.disks_of(said).values() for n in needs}
        return needs if needs <= set(known) else None

    def described(self, name):
        """Returns vm.json of a generation; {} also if it is damaged."""
        try:
            return self.describe(name)
        except (stored.Damaged, OSError):
            return {}

    def locked(self):
        """Excludes other writers if concurrent changes would be harmful."""
        return contextlib.nullcontext()

    def finish(self):
        """Completes operations of an earlier run that was killed."""

    def folding(self, going):
        """Returns the generations that would be rewritten to need none of GOING."""
        return []

    def fold(self, going):
        """Rewrites the generations that folding() returns."""

    def reclaim(self):
        """Frees the space of discarded generations, if the tool does that separately."""

    def owner(self):
        """Returns the VM of the newest generation, as far as recorded."""
        for name in newest_first(self.generations())[:1]:
            try:
                return stored.vm_of(self.described(name))
            except stored.Damaged:
                break
        return stored.Vm()
