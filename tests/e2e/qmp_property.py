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
from vm import Disk, QmpError, Vm

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
        self.under = {}  # image of an overlay to (image, content, size, format) of what it is on
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
        self.resize(disk, disk.size + (128 << 10))
        self.start()

    def resize(self, disk, size):
        """QEMU refuses after a crash, until the bitmaps that were lost are removed."""
        done = lib.attempt("qemu-img", "resize", "-q", "--shrink", "-f", disk.format, disk.image,
                           str(size))
        if done.returncode != 0:
            self.test.assertIn("is inconsistent", done.stderr)
            return
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
        self.lay(disk, path)
        self.start()

    def lay(self, disk, path):
        """Notes that a new overlay at PATH is the disk's image now."""
        self.under[path] = (disk.image, bytes(disk.model), disk.size, disk.format)
        disk.image = path
        disk.kind = disk.format = "qcow2"

    def fall(self, disk):
        """Notes that the image under the overlay is the disk's again."""
        image, _, disk.size, disk.format = self.under.pop(disk.image)
        self.kept = [k for k in self.kept if k[2] not in (disk.image, image)]
        disk.image, disk.kind = image, disk.format

    def is_used(self, image, but):
        """Whether IMAGE is under another image than BUT, or is a disk's."""
        return image in [u[0] for path, u in self.under.items() if path != but] or \
            any(d.image == image and d.image != but for d in self.disks)

    def overlays(self):
        """Disks that are the only ones on what is under them."""
        return [d for d in self.disks if d.image in self.under and
                d.size == self.under[d.image][2] and
                not self.is_used(self.under[d.image][0], d.image) and
                not self.is_used(d.image, d.image)]

    def end_overlay(self):
        """Into what is under it, or away, or with all that is under it."""
        found = self.overlays()
        if not found:
            return
        disk = self.rng.choice(found)
        how = self.rng.choice(("commit", "throw", "flatten"))
        self.stop()
        if how == "flatten":
            lib.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", disk.image)
            del self.under[disk.image]
        else:
            if how == "commit":
                lib.run("qemu-img", "commit", "-q", disk.image)
            else:
                disk.model = bytearray(self.under[disk.image][1])
            self.fall(disk)
        self.start()

    def revert(self):
        """To an external snapshot, as libvirt does: by another overlay in place of the one."""
        found = [d for d in self.disks
                 if d.image in self.under and not self.is_used(d.image, d.image)]
        if not found:
            return
        disk = self.rng.choice(found)
        image, model, disk.size, form = self.under[disk.image]
        self.stop()
        os.unlink(disk.image)
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", image, disk.image,
                disk.size)
        disk.model = bytearray(model)
        self.start()

    def revert_internal(self):
        """To an internal snapshot; QEMU refuses while there are bitmaps."""
        if not self.images():
            return
        self.stop()
        disk = self.rng.choice(self.images())
        lib.run("qemu-img", "snapshot", "-c", "earlier", disk.image)
        model = bytes(disk.model)
        self.start()
        self.write()
        if self.rng.randrange(2):
            self.back_up()
        self.stop()
        if self.rng.randrange(2):
            lib.run(*lib.FLEECEFS, "--forget", disk.image, env=self.vm.environment())
        if lib.attempt("qemu-img", "snapshot", "-a", "earlier", disk.image).returncode == 0:
            self.log.append("reverted")
            disk.model = bytearray(model)
        lib.run("qemu-img", "snapshot", "-d", "earlier", disk.image)
        self.start()

    # The same with a VM that runs. A dead daemon's jobs would be in the way.

    def root(self, disk):
        """The names of the node that the device has and, where it has one, of its drive."""
        for block in self.vm.qmp("query-block"):
            if f"/{disk.device}/" in block.get("qdev", ""):
                return block["inserted"]["node-name"], block["device"]
        raise AssertionError(f"{disk.device} has no node")

    def look(self, disk):
        """Takes note of how a disk is called now, and takes away nodes that are not needed."""
        del self.vm.disks[disk.name]
        node, device = self.root(disk)
        disk.name = node if node[0] != "#" else device or disk.device
        self.vm.disks[disk.name] = disk
        for node in self.vm.qmp("query-named-block-nodes", flat=True):
            if node["node-name"][0] != "#" and node["node-name"] not in self.vm.disks:
                try:
                    self.vm.qmp("blockdev-del", node_name=node["node-name"])
                except QmpError as error:
                    self.test.assertRegex(str(error), "in use|busy|not owned by the monitor")

    def node(self, image):
        """The only one that has IMAGE; None where there are more."""
        found = [n["node-name"] for n in self.vm.qmp("query-named-block-nodes", flat=True)
                 if n["file"] == image and n["drv"] in ("qcow2", "raw")]
        return found[0] if len(found) == 1 else None

    def live_overlay(self):
        self.vm.recover()
        disk = self.rng.choice(self.disks)
        path, name = self.test.path("live.qcow2"), next(self.names)
        node, device = self.root(disk)
        how = self.rng.choice(("added", "named", "nameless") if device else ("added", "named"))
        self.log.append(f"{how} on {disk.name}")
        if how == "added":
            lib.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", disk.format,
                    "-b", disk.image, path, disk.size)
            self.vm.qmp("blockdev-add", driver="qcow2", node_name=name, discard="unmap",
                        backing=None,
                        file={"driver": "file", "filename": path, "discard": "unmap"})
            self.vm.qmp("blockdev-snapshot", node=node, overlay=name)
        else:
            of = {"node_name": node, "snapshot_node_name": name} if how == "named" else \
                {"device": device}
            self.vm.qmp("blockdev-snapshot-sync", snapshot_file=path, format="qcow2", **of)
        self.lay(disk, path)
        self.look(disk)

    def run_job(self, command, disk, **arguments):
        """Block job COMMAND on DISK, to its end; the guest writes meanwhile."""
        self.vm.qmp(command, job_id="job", device=self.root(disk)[0], **arguments)
        self.write()
        if command == "block-commit" and "top_node" not in arguments:
            self.vm.qmp.wait("BLOCK_JOB_READY", device="job")
            self.write()
            self.vm.qmp("block-job-complete", device="job")
        self.test.assertNotIn("error", self.vm.qmp.wait("BLOCK_JOB_COMPLETED", device="job"))

    def live_commit(self):
        """Of the active layer."""
        self.vm.recover()
        found = [(d, b) for d in self.overlays() if (b := self.node(self.under[d.image][0]))]
        if not found:
            return
        disk, base = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        self.run_job("block-commit", disk, base_node=base)
        self.fall(disk)
        self.look(disk)

    def live_commit_below(self):
        """Of the layer below the active one, where that has one under it."""
        self.vm.recover()
        found = [d for d in self.overlays() if self.under[d.image][0] in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        middle, model, size, _ = self.under[disk.image]
        image, _, old, form = self.under[middle]
        top, base = self.node(middle), self.node(image)
        if size != old or self.is_used(image, middle) or not top or not base:
            return
        self.log.append(f"of {disk.name}")
        self.run_job("block-commit", disk, top_node=top, base_node=base)
        del self.under[middle]
        self.under[disk.image] = (image, model, size, form)
        self.kept = [k for k in self.kept if k[2] not in (disk.image, middle, image)]
        self.look(disk)

    def live_pull(self):
        """All that is under the active layer into it, or what is next."""
        self.vm.recover()
        found = [d for d in self.disks if d.image in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        self.log.append(f"of {disk.name}")
        middle = self.under[disk.image][0]
        base = self.node(self.under[middle][0]) if middle in self.under else None
        if base and self.rng.randrange(2):
            self.run_job("block-stream", disk, base_node=base)
            self.under[disk.image] = self.under[middle]
            if not self.is_used(middle, disk.image):
                del self.under[middle]
        else:
            self.run_job("block-stream", disk)
            del self.under[disk.image]
        self.kept = [k for k in self.kept if k[2] != disk.image]
        self.look(disk)

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
            if node not in self.vm.disks:
                continue
            for name in names:
                if self.vm.bitmaps()[node, name].get("inconsistent"):
                    continue
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
                   self.overlay, self.end_overlay, self.revert, self.revert_internal,
                   self.live_overlay, self.live_overlay, self.live_commit, self.live_commit_below,
                   self.live_pull, self.migrate, self.kill, self.jump, self.abort, self.die]
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
