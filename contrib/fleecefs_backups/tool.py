# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tools have in common that save VMs.

A generation holds vm.json, which says whose it is and, of each disk, what its restore is made of:

    {"version": 1, "called": NAME, "vm": {"uuid", "name", "source"}, "generation": NAME,
     "number": N, "series": NAME, "disks": {DISK: {"mode", "restore_point", "base", "disk_id",
     "needs": [GENERATION...]}}}
"""
import contextlib
import re

from . import stored
from .keep import Generation

GENERATION = re.compile(r"\d{8}T\d{6}Z(-[0-9a-f]{16})?")
LOOK_BACK = 20  # generations of a repository that are looked into for a base


class Broken(Exception):
    """An increment cannot be put on what is stored."""


def number_in(text):
    found = re.fullmatch(r"number=(\d{1,15})", text)
    return int(found[1]) if found else -1


def newest_first(generations):
    return sorted(generations, key=lambda name: (generations[name], name), reverse=True)


class Tool:
    """What all have in common.

    generations() is what there is, as name to number (-1: from an older version);
    describe(name) its vm.json, {} if it has none; save() adds one, verify() compares it with the
    snapshot, discard() takes any number away again, in this order.
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
        raise Broken(self.missing(base))

    def missing(self, base):
        return (f"{base} is not in {self.place}; if that is one of several destinations in turn, give "
                "each a --series of its own, or store pieces")

    def inventory(self):
        """All generations, the newest first, as keep.split() takes them."""
        known = self.generations()
        said = {name: self.described(name) for name in newest_first(known)}
        return {name: Generation(text.get("series"), self.needs_of(name, text, known))
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

    def locked(self):
        """While this lasts nobody else changes what is stored, where that could do harm."""
        return contextlib.nullcontext()

    def finish(self):
        """Does to the end what an earlier run was killed in."""

    def folding(self, going):
        """Those generations that would be rewritten so that they need none of those GOING."""
        return []

    def fold(self, going):
        """Rewrites them."""

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
