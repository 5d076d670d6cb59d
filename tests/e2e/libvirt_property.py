#!/usr/bin/env python3
"""Random sequences of actions on domains of libvirt: see world.py."""
import os
import re

import lib
import world
from libvirtd import Domain

TARGETS = [f"vd{letter}" for letter in "abcdefgh"]


class LibvirtWorld(world.World):
    def __init__(self, test, rng):
        self.disks = []
        super().__init__(test, rng)
        self.vm = Domain(test, self.disks)

    def new_name(self):
        return self.rng.choice([t for t in TARGETS if t not in [d.name for d in self.disks]])

    def start(self):
        self.vm.change(*self.disks)
        self.vm.start()

    def stop(self):
        self.vm.quit()

    def virsh(self, *args):
        return self.vm.virsh(*args)

    def rename(self):
        """Gives a disk another target."""
        self.stop()
        disk = self.rng.choice(self.disks)
        disk.name = self.new_name()
        self.start()

    def rename_domain(self):
        if self.vm.transient:
            return
        self.stop()
        new = self.vm.new_name()
        self.virsh("domrename", self.vm.name, new)
        self.vm.name = new
        self.start()

    def undefine(self):
        """Undefines and defines the domain: libvirt loses its checkpoints, the images keep the bitmaps."""
        if self.vm.transient:
            return
        self.stop()
        self.virsh("undefine", self.vm.name, "--checkpoints-metadata")
        self.start()

    def move(self):
        """Moves the disks to another domain."""
        self.stop()
        if not self.vm.transient:
            self.virsh("undefine", self.vm.name, "--checkpoints-metadata")
        self.vm.uuid, self.vm.name = self.new_identity(), self.vm.new_name()
        self.start()

    def transient(self):
        """Makes the domain transient, or persistent again."""
        self.stop()
        if not self.vm.transient:
            self.virsh("undefine", self.vm.name, "--checkpoints-metadata")
        self.vm.transient = not self.vm.transient
        self.start()

    def source(self, disk):
        if self.vm.transient:
            return super().source(disk)
        return self.vm.source(), disk.name, ["-o", f"disk={disk.name}", "-o",
                                             f"scratch={self.vm.scratch}"]

    # Actions on a running domain. Each recovers first, because a job of a killed daemon would block it.

    def live_overlay(self):
        self.vm.recover()
        disk, path = self.rng.choice(self.disks), self.test.path("live.qcow2")
        others = [a for d in self.disks if d != disk
                  for a in ("--diskspec", f"{d.name},snapshot=no")]
        self.log.append(f"on {disk.name}")
        self.virsh("snapshot-create-as", self.vm.name, "s", "--disk-only", "--no-metadata",
                   "--diskspec", f"{disk.name},file={path},driver=qcow2", *others)
        self.add_overlay(disk, path)

    def live_commit(self):
        self.vm.recover()
        found = self.overlays()
        if not found:
            return
        disk = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        self.virsh("blockcommit", self.vm.name, disk.name, "--active", "--shallow", "--wait",
                   "--pivot")
        self.drop_overlay(disk)

    def live_pull(self):
        """Pulls all images below the active layer into it, or only the next one."""
        self.vm.recover()
        found = [d for d in self.disks if d.image in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        middle = self.under[disk.image][0]
        if middle in self.under and self.rng.randrange(2):
            self.virsh("blockpull", self.vm.name, disk.name, "--wait", "--base",
                       self.under[middle][0])
            self.pulled(disk, middle)
        else:
            self.virsh("blockpull", self.vm.name, disk.name, "--wait")
            self.pulled(disk, None)

    def set_live_size(self, disk, size):
        self.virsh("blockresize", self.vm.name, disk.name, f"{size}B")

    def snapshot_revert(self):
        """Creates an internal snapshot and reverts to it, unless libvirt refuses."""
        if self.vm.transient or len(self.images()) != len(self.disks):
            return
        self.stop()
        models = [bytes(d.model) for d in self.disks]
        if self.refused("snapshot-create-as", self.vm.name, "earlier"):
            self.start()
            return
        self.start()
        self.write()
        if self.rng.randrange(2):
            self.back_up()
        self.stop()
        if not self.refused("snapshot-revert", self.vm.name, "earlier"):
            self.log.append("reverted")
            for disk, model in zip(self.disks, models):
                disk.model = bytearray(model)
        self.virsh("snapshot-delete", self.vm.name, "earlier")
        self.start()

    def refused(self, *args):
        done = lib.attempt("virsh", "--connect", self.vm.libvirtd.uri(), *args)
        if done.returncode != 0:
            self.log.append(done.stderr.strip())
        return done.returncode != 0

    def kill(self):
        """QEMU."""
        if self.vm.transient:
            return
        for name in self.vm.disks:
            self.vm.io(name, "flush")
        self.vm.kill()
        self.start()

    def jump(self):
        """Changes the creation times of checkpoints, as if the clock had been wrong."""
        for name in self.vm.checkpoints():
            xml = re.sub("(?<=<creationTime>)[0-9]+",
                         str(self.rng.choice((0, 1577836800, 4102358400))),
                         self.virsh("checkpoint-dumpxml", self.vm.name, name), count=1)
            path = self.test.path("checkpoint.xml")
            with open(path, "w") as f:
                f.write(xml)
            self.virsh("checkpoint-create", self.vm.name, path, "--redefine")

    def actions(self):
        return [*super().actions(), self.rename, self.rename_domain, self.undefine, self.move,
                self.transient, self.live_overlay, self.live_overlay, self.live_commit,
                self.live_pull, self.live_resize, self.snapshot_revert, self.kill, self.jump]


class LibvirtProperty(world.Property):
    kind = LibvirtWorld

    def setUp(self):
        super().setUp()
        os.chmod(self.dir, 0o755)  # QEMU runs as another user


if __name__ == "__main__":
    lib.main()
