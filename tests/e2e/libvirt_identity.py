#!/usr/bin/env python3
"""Identity of disks with libvirt, where one checkpoint covers all disks: an image is followed to
another target; in doubt, the backup is full. Every backup restores the disk's contents at that
time."""
import os
import shutil

import lib
from chains import Chains
from libvirtd import Domain
from vm import Disk

SIZE = 4 * lib.MIB


class Identity(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.a, self.b = Disk(self, "vda", SIZE), Disk(self, "vdb", SIZE)
        self.chains = Chains(self)
        self.vm = Domain(self, [self.a, self.b])
        self.vm.write("vda", 0, lib.MIB, 17)
        self.vm.write("vdb", 0, lib.MIB, 18)
        self.first = self.chains.back_up(self.vm)
        self.assertEqual(len({d["disk_id"] for d in self.first.values()}), 2)

    def write(self, byte):
        for number, name in enumerate(self.vm.disks):
            self.vm.write(name, (number + 1) * 65536 * byte % SIZE, 65536, byte)

    def restart(self, *disks):
        self.vm.quit()
        self.vm.change(*disks)
        self.vm.start()

    def check_increment(self, before, after):
        self.assertEqual((after.get("base"), after["disk_id"]),
                         (before["restore_point"], before["disk_id"]))

    def check_full(self, after, reason):
        self.assertNotIn("base", after)
        self.assertRegex(after["reason"], reason)

    def test_disks_trade_places(self):
        """First their targets are exchanged, then the names of their files."""
        self.write(2)
        self.a.name, self.b.name = "vdb", "vda"
        self.restart(self.a, self.b)
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.check_increment(self.first["vda"], second["vdb"])
        self.check_increment(self.first["vdb"], second["vda"])
        self.write(4)
        self.vm.quit()
        os.rename(self.a.image, kept := self.path("kept"))
        os.rename(self.b.image, self.a.image)
        os.rename(kept, self.b.image)
        self.a.model, self.b.model = self.b.model, self.a.model
        self.vm.start()
        self.write(5)
        third = self.chains.back_up(self.vm)
        self.check_increment(second["vdb"], third["vda"])
        self.check_increment(second["vda"], third["vdb"])

    def test_an_image_is_replaced(self):
        """With a new image, with a copy of the other, and with a copy of itself."""
        self.write(2)
        self.vm.quit()
        os.unlink(self.b.image)
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", self.b.image, SIZE)
        self.b.model = bytearray(SIZE)
        self.vm.start()
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.check_increment(self.first["vda"], second["vda"])
        self.check_full(second["vdb"], "replaced")
        self.vm.quit()
        os.unlink(self.b.image)
        shutil.copy(self.a.image, self.b.image)
        self.b.model = bytearray(self.a.model)
        self.vm.start()
        self.write(4)
        third = self.chains.back_up(self.vm)
        self.check_increment(second["vda"], third["vda"])
        self.check_full(third["vdb"], "replaced, or is a copy")
        self.vm.quit()
        shutil.copy(self.a.image, kept := self.path("kept"))
        os.rename(kept, self.a.image)
        self.vm.start()
        fourth = self.chains.back_up(self.vm)
        self.check_full(fourth["vda"], "replaced, or is a copy")
        self.check_increment(third["vdb"], fourth["vdb"])

    def test_storage_is_rolled_back(self):
        """To a state before the last backup, in which its bitmap does not exist."""
        self.write(2)
        self.vm.quit()
        shutil.copy(self.a.image, kept := self.path("kept"))
        model = bytes(self.a.model)
        self.vm.start()
        self.write(3)
        self.chains.back_up(self.vm)
        self.vm.quit()
        shutil.copy(kept, self.a.image)
        self.a.model[:] = model
        self.vm.start()
        self.write(4)
        third = self.chains.back_up(self.vm)
        self.check_full(third["vda"], "is lost")
        self.assertIn("base", third["vdb"])
        self.write(5)
        self.check_increment(third["vda"], self.chains.back_up(self.vm)["vda"])

    def check_changed(self):
        """Disk A does not match its bitmap: the next backup is full, the one after it an increment."""
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.check_full(second["vda"], "its bytes at .* the bitmap does not list them")
        self.check_increment(self.first["vdb"], second["vdb"])
        self.write(4)
        self.check_increment(second["vda"], self.chains.back_up(self.vm)["vda"])

    def test_smaller_and_larger_again(self):
        """The size does not show a change."""
        self.vm.write("vda", SIZE - lib.MIB, lib.MIB, 19)
        self.first = self.chains.back_up(self.vm)
        for size in SIZE - lib.MIB, SIZE:
            self.vm.virsh("blockresize", self.vm.name, "vda", f"{size}B")
            self.a.set_size(size)
        self.check_changed()

    def test_smaller_and_larger_again_when_off(self):
        self.vm.write("vda", SIZE - lib.MIB, lib.MIB, 19)
        self.first = self.chains.back_up(self.vm)
        self.vm.quit()
        for size in SIZE - lib.MIB, SIZE:
            lib.run("qemu-img", "resize", "-q", "--shrink", self.a.image, size)
            self.a.set_size(size)
        self.vm.start()
        self.check_changed()

    def test_contents_exchanged_in_place(self):
        self.write(2)
        self.vm.quit()
        for image in self.a.image, self.b.image:
            shutil.copy(image, image + ".kept")
        shutil.copyfile(self.a.image + ".kept", self.b.image)
        shutil.copyfile(self.b.image + ".kept", self.a.image)
        self.a.model, self.b.model = self.b.model, self.a.model
        self.vm.start()
        for disk in self.chains.back_up(self.vm).values():
            self.check_full(disk, "its bytes at .* the bitmap does not list them")

    def test_bitmap_cleared(self):
        self.write(2)
        self.vm.quit()
        lib.run("qemu-img", "bitmap", "--clear", self.a.image, self.vm.checkpoints()[0])
        self.vm.start()
        self.check_changed()

    def test_large_disk_made_smaller_and_larger_again(self):
        """Fingerprints cover the disk only in part; little of the truncated range has data."""
        size = 64 * lib.GIB
        disk = Disk(self, "vda", lib.MIB)
        lib.run("qemu-img", "resize", "-q", disk.image, size)
        vm = Domain(self, [disk])
        for at in 0, 13 * lib.GIB, 40 * lib.GIB + 5 * 65536, 63 * lib.GIB:
            vm.io("vda", f"write -P 5 {at} 65536")
        vm.begin().finish("commit")
        vm.io("vda", f"write -P 6 {20 * lib.GIB} 65536")
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])
        snapshot.finish("commit")
        for cut in size - lib.MIB, size:
            vm.virsh("blockresize", vm.name, "vda", f"{cut}B")
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])
        snapshot.finish("commit")
        for cut in 62 * lib.GIB, size:
            vm.virsh("blockresize", vm.name, "vda", f"{cut}B")
        snapshot = vm.begin()
        self.check_full(snapshot.disks["vda"], f"its bytes at {63 * lib.GIB} differ")
        snapshot.finish("abort")

    def test_external_snapshot(self):
        """The chain continues in the overlay, and after a merge."""
        self.vm.virsh("snapshot-create-as", self.vm.name, "s", "--disk-only", "--no-metadata")
        self.write(2)
        second = self.chains.back_up(self.vm)
        self.check_increment(self.first["vda"], second["vda"])
        self.write(3)
        for name in "vda", "vdb":
            self.vm.virsh("blockcommit", self.vm.name, name, "--active", "--pivot", "--wait")
        self.write(4)
        third = self.chains.back_up(self.vm)
        for name in "vda", "vdb":
            self.assertIn(third[name].get("base"), (None, second[name]["restore_point"]))

    def test_another_name(self):
        self.write(2)
        self.vm.quit()
        new = self.vm.name + " new"
        self.vm.virsh("domrename", self.vm.name, new)
        self.vm.name = new
        self.vm.start()
        second = self.chains.back_up(self.vm)
        self.check_increment(self.first["vda"], second["vda"])


if __name__ == "__main__":
    lib.main()
