#!/usr/bin/env python3
"""Random sequences of what administrators do to VMs and their disks between backups of two series to
two destinations: every backup restores to what the disks held, and images change in nothing else.

SEQUENCES and STEPS in the environment say how many, SEED repeats a run."""
import collections
import copy
import os
import random
import shutil
import uuid

import lib
from chains import Chains
from vm import Disk, Vm

SEQUENCES = int(os.environ.get("SEQUENCES") or 3)
STEPS = int(os.environ.get("STEPS") or 12)
SIZE = lib.MIB
MOST_DISKS = 3


class World:
    """A VM and its disks, and what is done to them."""

    def __init__(self, test, rng):
        self.test, self.rng = test, rng
        self.names = iter(f"disk{n}" for n in range(1000))
        self.kept = []  # (copy of an image, its disk as it was)
        self.under = {}  # image of an overlay to (its backing disk as it was)
        self.destinations = [Chains(test), Chains(test)]
        self.log = []
        self.disks = [self.new_disk() for _ in range(2)]
        self.new_identity()
        self.vm = None
        self.start()

    def new_disk(self, kind="qcow2"):
        return Disk(self.test, next(self.names), SIZE, kind=kind)

    def new_identity(self):
        self.uuid = str(uuid.UUID(int=self.rng.getrandbits(128)))

    def start(self, *arguments):
        self.vm = Vm(self.test, self.disks, ["-uuid", self.uuid, *arguments])

    def stop(self):
        self.vm.quit()

    def write(self):
        for name, disk in self.vm.disks.items():
            for _ in range(self.rng.randrange(3)):
                offset = self.rng.randrange(disk.size // 4096) * 4096
                length = min(self.rng.choice((4096, 65536, 100 << 10)), disk.size - offset)
                self.vm.write(name, offset, length, self.rng.randrange(1, 255))

    def images(self):
        """The disks whose points are in their images."""
        return [d for d in self.disks if d.kind == "qcow2"]

    # What can be done. Each leaves the VM running.

    def restart(self):
        self.stop()
        self.start()

    def trade(self):
        self.stop()
        names = [d.name for d in self.disks]
        self.rng.shuffle(names)
        self.rng.shuffle(self.disks)
        for disk, name in zip(self.disks, names):
            disk.name = name
        self.start()

    def rename(self):
        self.stop()
        disk = self.rng.choice(self.disks)
        disk.name, disk.style = next(self.names), self.rng.choice(("blockdev", "drive"))
        self.start()

    def move(self):
        """To another VM."""
        self.stop()
        self.new_identity()
        self.start()

    def clone(self):
        if len(self.disks) >= MOST_DISKS or not self.images():
            return
        self.stop()
        disk = self.rng.choice(self.images())
        other = self.new_disk()
        shutil.copy(disk.image, other.image)
        other.size, other.model = disk.size, bytearray(disk.model)
        if disk.image in self.under:
            self.under[other.image] = self.under[disk.image]
        self.disks.append(other)
        self.start()

    def add(self):
        if len(self.disks) >= MOST_DISKS:
            return
        self.stop()
        self.disks.append(self.new_disk(self.rng.choice(("qcow2", "raw"))))
        self.start()

    def remove(self):
        if len(self.disks) < 2:
            return
        self.stop()
        self.disks.remove(self.rng.choice(self.disks))
        self.start()

    def replace(self):
        self.stop()
        disk = self.rng.choice(self.disks)
        fresh = Disk(self.test, disk.name, SIZE, kind=disk.kind, style=disk.style)
        self.disks[self.disks.index(disk)] = fresh
        self.start()

    def grow(self):
        self.stop()
        disk = self.rng.choice(self.disks)
        lib.run("qemu-img", "resize", "-q", "-f", disk.format, disk.image, f"+{128 << 10}")
        disk.size += 128 << 10
        disk.model.extend(bytes(128 << 10))
        self.start()

    def resize(self, disk, size):
        lib.run("qemu-img", "resize", "-q", "--shrink", "-f", disk.format, disk.image, size)
        del disk.model[size:]
        disk.model.extend(bytes(size - len(disk.model)))
        disk.size = size

    def shrink(self):
        """Sometimes by mistake."""
        found = [d for d in self.disks if d.image not in self.under and d.size > SIZE // 2]
        if not found:
            return
        self.stop()
        disk = self.rng.choice(found)
        size = disk.size
        self.resize(disk, size - (128 << 10))
        if self.rng.randrange(2):
            self.resize(disk, size)
        self.start()

    def keep(self):
        """A snapshot of the storage."""
        if not self.images():
            return
        self.stop()
        disk = self.rng.choice(self.images())
        path = self.test.path("kept")
        shutil.copy(disk.image, path)
        self.kept.append((path, copy.deepcopy(disk.model), disk.image, disk.size))
        self.start()

    def roll_back(self):
        found = [(k, d) for k in self.kept for d in self.disks if d.image == k[2]]
        if not found:
            return
        (path, model, image, size), disk = self.rng.choice(found)
        self.stop()
        shutil.copy(path, image)
        disk.model, disk.size = bytearray(model), size
        self.start()

    def overlay(self):
        """An external snapshot."""
        if not self.images():
            return
        self.stop()
        disk = self.rng.choice(self.images())
        path = self.test.path("overlay.qcow2")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk.image, path)
        self.under[path] = (disk.image, bytes(disk.model), disk.size)
        disk.image = path
        self.start()

    def end_overlay(self):
        """Into what is under it, or away, or with all that is under it."""
        found = [d for d in self.disks if d.image in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        image, model, size = self.under[disk.image]
        how = self.rng.choice(("commit", "throw", "flatten"))
        # What others lie on, or have as theirs, must stay as it is.
        others = [u[0] for path, u in self.under.items() if path != disk.image]
        shared = image in others or any(d.image == image for d in self.disks)
        if shared or disk.size != size or disk.image in others:
            return
        self.stop()
        if how == "flatten":
            lib.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", disk.image)
            del self.under[disk.image]
        else:
            if how == "commit":
                lib.run("qemu-img", "commit", "-q", disk.image)
            else:
                disk.model = bytearray(model)
            self.kept = [k for k in self.kept if k[2] not in (disk.image, image)]
            del self.under[disk.image]
            disk.image = image
        self.start()

    def migrate(self):
        source = self.vm
        self.start("-incoming", "defer")
        source.migrate(self.vm)
        source.quit()

    def kill(self):
        for name in self.vm.disks:
            self.vm.io(name, "flush")
        self.vm.kill()
        self.start()

    def jump(self):
        """As if the clock had been anywhere at the last backup."""
        for node, names in self.vm.points().items():
            if node.startswith("#"):
                continue
            for name in names:
                old = name.rpartition(".")[2]
                new = self.rng.choice(("19700102", "20200101", "20991231")) + old[8:]
                other = "fleecefs.last." + new
                if other == name:
                    continue
                self.vm.qmp("transaction", actions=[
                    {"type": "block-dirty-bitmap-add",
                     "data": {"node": node, "name": other, "persistent":
                              self.vm.bitmaps()[node, name].get("persistent", False)}},
                    {"type": "block-dirty-bitmap-merge",
                     "data": {"node": node, "target": other, "bitmaps": [name]}},
                    {"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}}])
                for chains in self.destinations:
                    for point, disk in list(chains.kept):
                        if point == old:
                            chains.kept[new, disk] = chains.kept[point, disk]

    def abort(self):
        self.vm.begin().finish("abort")

    def die(self):
        """A daemon does."""
        self.vm.begin().kill()

    def back_up(self):
        chains, series = self.rng.choice(self.destinations), self.rng.choice(("last", "week"))
        self.log.append(f"back up to {self.destinations.index(chains)}, series {series}")
        chains.back_up(self.vm, series=series, commit=self.rng.randrange(8) != 0)

    def run(self, steps):
        actions = [self.restart, self.trade, self.rename, self.move, self.clone, self.add,
                   self.remove, self.replace, self.grow, self.shrink, self.keep, self.roll_back,
                   self.overlay, self.end_overlay, self.migrate, self.kill, self.jump, self.abort,
                   self.die]
        done = collections.Counter()
        self.write()
        self.back_up()
        for _ in range(steps):
            for action in self.rng.sample(actions, self.rng.randrange(3)):
                self.log.append(action.__name__)
                done[action.__name__] += 1
                action()
                self.write()
            self.write()
            self.back_up()
        self.stop()
        for disk in self.images():
            lib.run("qemu-img", "check", "-q", "-f", "qcow2", disk.image)
        return done


class Property(lib.TestCase):
    def test_sequences(self):
        done = collections.Counter()
        for number in range(SEQUENCES):
            seed = self.rng.getrandbits(32)
            with self.subTest(sequence=number, seed=seed):
                world = World(self, random.Random(seed))
                try:
                    done += world.run(STEPS)
                except Exception:
                    print("\n".join(["", f"sequence {number}:", *world.log]))
                    raise
                finally:
                    world.vm.kill()
        print(", ".join(f"{n} {how}" for how, n in sorted(done.items())), end=" ")


if __name__ == "__main__":
    lib.main()
