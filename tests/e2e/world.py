"""Random sequences of administrative actions on VMs and disks between backups of two series to two
destinations: every backup restores the disks' contents, and images do not change otherwise.

Environment: SEQUENCES and STEPS are the numbers of each, SEED repeats a run."""
import collections
import copy
import os
import random
import shutil
import traceback
import uuid

import lib
from chains import Chains
from vm import Disk, QmpError

SEQUENCES = int(os.environ.get("SEQUENCES") or 3)
STEPS = int(os.environ.get("STEPS") or 12)
SIZE = lib.MIB
MOST_DISKS = 3


class World:
    """A VM, its disks, and actions on them. Subclasses define start(), stop() and actions on a
    running VM. Each action leaves the VM running."""

    def __init__(self, test, rng):
        self.test, self.rng = test, rng
        self.kept = []  # (copy of an image, copy of its Disk)
        self.under = {}  # overlay to (image, content, size, format) of its backing image
        self.destinations = [Chains(test), Chains(test)]
        self.log = []
        self.disks = []
        for _ in range(2):
            self.disks.append(self.new_disk())
        self.vm = None

    def new_disk(self, kind="qcow2"):
        return Disk(self.test, self.new_name(), SIZE, kind=kind)

    def new_identity(self):
        """Returns a new UUID. Deletes journals of killed daemons, because nobody will recover the
        old VM."""
        if self.vm:
            for name in os.listdir(self.vm.state):
                if name.endswith(".journal"):
                    os.unlink(os.path.join(self.vm.state, name))
        return str(uuid.UUID(int=self.rng.getrandbits(128)))

    def write(self):
        for name, disk in self.vm.disks.items():
            for _ in range(self.rng.randrange(3)):
                offset = self.rng.randrange(disk.size // 4096) * 4096
                length = min(self.rng.choice((4096, 65536, 100 << 10)), disk.size - offset)
                self.vm.write(name, offset, length, self.rng.randrange(1, 255))

    def images(self):
        """Returns disks whose restore points are stored in their images."""
        return [d for d in self.disks if d.kind == "qcow2"]

    # Actions while the VM is shut off.

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
        """After a crash, QEMU refuses until the inconsistent bitmaps are removed."""
        done = lib.attempt("qemu-img", "resize", "-q", "--shrink", "-f", disk.format, disk.image,
                           str(size))
        if done.returncode != 0:
            self.test.assertIn("is inconsistent", done.stderr)
            return
        disk.set_size(size)

    def live_resize(self):
        """Grows a disk while the VM runs, or shrinks it by mistake and grows it back."""
        self.vm.recover()
        found = [d for d in self.disks if d.image not in self.under]
        if not found:
            return
        disk = self.rng.choice(found)
        step = 128 << 10
        sizes = self.rng.choice(((disk.size + step,), (disk.size - step, disk.size)))
        self.log.append(f"of {disk.name} to {sizes}")
        for size in sizes:
            try:
                self.set_live_size(disk, size)
            except (AssertionError, QmpError) as error:
                # The other series still has one.
                self.test.assertIn("is inconsistent", str(error))
                return
            disk.set_size(size)

    def shrink(self):
        """Shrinks a disk, sometimes by mistake."""
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

    def swap(self):
        """Exchanges the contents of two images in place; the files remain."""
        found = [d for d in self.images() if d.image not in self.under and
                 not self.is_used(d.image, d.image)]
        if len(found) < 2:
            return
        self.stop()
        a, b = self.rng.sample(found, 2)
        for source, target in zip((a, b), [self.read(d.image) for d in (b, a)]):
            with open(source.image, "wb") as f:
                f.write(target)
        a.model, b.model = b.model, a.model
        a.size, b.size = b.size, a.size
        self.kept = [k for k in self.kept if k[2] not in (a.image, b.image)]
        self.start()

    @staticmethod
    def read(path):
        with open(path, "rb") as f:
            return f.read()

    def keep(self):
        """Takes a snapshot of the storage."""
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
        """Takes an external snapshot."""
        if not self.images():
            return
        self.stop()
        disk = self.rng.choice(self.images())
        path = self.test.path("overlay.qcow2")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk.image, path)
        self.add_overlay(disk, path)
        self.start()

    def add_overlay(self, disk, path):
        """Records a new overlay at PATH as the disk's image."""
        self.under[path] = (disk.image, bytes(disk.model), disk.size, disk.format)
        disk.image = path
        disk.kind = disk.format = "qcow2"

    def drop_overlay(self, disk):
        """Records the overlay's backing image as the disk's image again."""
        image, _, disk.size, disk.format = self.under.pop(disk.image)
        self.kept = [k for k in self.kept if k[2] not in (disk.image, image)]
        disk.image, disk.kind = image, disk.format

    def pulled(self, disk, middle):
        """Records that the images between the overlay and MIDDLE (None: all) were pulled into it."""
        if middle is None:
            del self.under[disk.image]
        else:
            self.under[disk.image] = self.under[middle]
            if not self.is_used(middle, disk.image):
                del self.under[middle]
        self.kept = [k for k in self.kept if k[2] != disk.image]

    def is_used(self, image, but):
        """Whether IMAGE is the image of a disk, or backs an overlay other than BUT."""
        return image in [u[0] for path, u in self.under.items() if path != but] or \
            any(d.image == image and d.image != but for d in self.disks)

    def overlays(self):
        """Returns disks with an overlay that do not share its backing image."""
        return [d for d in self.disks if d.image in self.under and
                d.size == self.under[d.image][2] and
                not self.is_used(self.under[d.image][0], d.image) and
                not self.is_used(d.image, d.image)]

    def end_overlay(self):
        """Ends an overlay: commits it, discards it, or flattens the chain."""
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
            self.drop_overlay(disk)
        self.start()

    def revert(self):
        """Reverts to an external snapshot as libvirt does: replaces the overlay with a new one."""
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
        """Reverts to an internal snapshot; QEMU refuses while there are bitmaps."""
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

    def abort(self):
        self.vm.begin().finish("abort")

    def die(self):
        """Kills a daemon."""
        self.vm.begin().kill()

    def off(self):
        """Backs up the images with the VM shut off, which creates no restore point."""
        self.stop()
        chains, series = self.choose()
        for disk in self.images():
            source, folder, options = self.source(disk)
            with self.test.mount(source, options=["--series", series, *options],
                                 env=self.vm.environment()) as mount:
                info = mount.json(f"{folder}/info.json")
                data = mount.read(f"{folder}/disk.raw", "rb")
                self.test.assertTrue(data == bytes(disk.model), disk.image)
                old = chains.kept.get((info.get("base"), info.get("disk_id")))
                if old is not None:
                    new = bytearray(old)
                    bitmap, = (c["bitmap"] for c in info["contexts"] if "base" in c)
                    for extent in mount.json(f"{folder}/dirty/{bitmap}.json"):
                        if extent["dirty"]:
                            end = extent["start"] + extent["length"]
                            new[extent["start"]:end] = data[extent["start"]:end]
                    self.test.assertTrue(new == data, info)
        self.start()

    def source(self, disk):
        """Returns the source, the folder in the mount and options for DISK while the VM is shut off."""
        return "disk=" + disk.image, "disk", []

    def choose(self):
        """Returns a random destination and series."""
        chains, series = self.rng.choice(self.destinations), self.rng.choice(("last", "week"))
        self.log.append(f"to {self.destinations.index(chains)}, series {series}")
        return chains, series

    def back_up(self):
        chains, series = self.choose()
        chains.back_up(self.vm, series=series, commit=self.rng.randrange(8) != 0)

    def actions(self):
        """Returns the actions to choose from, for any kind of VM."""
        return [self.restart, self.trade, self.clone, self.add, self.remove, self.replace, self.grow,
                self.shrink, self.swap, self.keep, self.roll_back, self.overlay, self.end_overlay,
                self.revert, self.revert_internal, self.abort, self.die, self.off]

    def run(self, steps):
        actions, done = self.actions(), collections.Counter()
        self.write()
        self.back_up()
        for _ in range(steps):
            for action in self.rng.sample(actions, self.rng.randrange(3)):
                self.log.append(action.__name__)
                done[action.__name__] += 1
                action()
                self.write()
            self.write()
            self.log.append("back up")
            self.back_up()
        self.stop()
        for disk in self.images():
            lib.run("qemu-img", "check", "-q", "-f", "qcow2", disk.image)
        return done


class Property(lib.TestCase):
    """Runs sequences, each in a separate world."""

    kind = None

    def setUp(self):
        if self.kind is None:
            self.skipTest("abstract base class")
        super().setUp()

    def run_one(self, seed):
        world = self.kind(self, random.Random(seed))
        try:
            return world.run(STEPS)
        except Exception:
            raise AssertionError("\n".join([*world.log, traceback.format_exc()])) from None

    def test_sequences(self):
        done = collections.Counter()
        for number in range(SEQUENCES):
            seed = self.rng.getrandbits(32)
            with self.subTest(sequence=number, seed=seed), self.part():
                done += self.run_one(seed)
            if (number + 1) % 20 == 0:
                print(number + 1, end=" ", flush=True)
        print(", ".join(f"{n} {how}" for how, n in sorted(done.items())), end=" ")
