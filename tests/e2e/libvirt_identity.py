#!/usr/bin/env python3
"""Whose an increment is, with libvirt, where one checkpoint stands for all disks: an image is
followed to another target, and what is not certain is full. Every backup restores to what the disk
held."""
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

    def goes_on(self, before, after):
        self.assertEqual((after.get("base"), after["disk_id"]),
                         (before["restore_point"], before["disk_id"]))

    def is_full(self, after, reason):
        self.assertNotIn("base", after)
        self.assertRegex(after["reason"], reason)

    def test_disks_trade_places(self):
        """By their targets, and then by the names of their files."""
        self.write(2)
        self.a.name, self.b.name = "vdb", "vda"
        self.restart(self.a, self.b)
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.goes_on(self.first["vda"], second["vdb"])
        self.goes_on(self.first["vdb"], second["vda"])
        self.write(4)
        self.vm.quit()
        os.rename(self.a.image, kept := self.path("kept"))
        os.rename(self.b.image, self.a.image)
        os.rename(kept, self.b.image)
        self.a.model, self.b.model = self.b.model, self.a.model
        self.vm.start()
        self.write(5)
        third = self.chains.back_up(self.vm)
        self.goes_on(second["vdb"], third["vda"])
        self.goes_on(second["vda"], third["vdb"])

    def test_an_image_is_replaced(self):
        """By a fresh one, by a copy of the other, and by a copy of itself."""
        self.write(2)
        self.vm.quit()
        os.unlink(self.b.image)
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", self.b.image, SIZE)
        self.b.model = bytearray(SIZE)
        self.vm.start()
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.goes_on(self.first["vda"], second["vda"])
        self.is_full(second["vdb"], "replaced")
        self.vm.quit()
        os.unlink(self.b.image)
        shutil.copy(self.a.image, self.b.image)
        self.b.model = bytearray(self.a.model)
        self.vm.start()
        self.write(4)
        third = self.chains.back_up(self.vm)
        self.goes_on(second["vda"], third["vda"])
        self.is_full(third["vdb"], "replaced, or is a copy")
        self.vm.quit()
        shutil.copy(self.a.image, kept := self.path("kept"))
        os.rename(kept, self.a.image)
        self.vm.start()
        fourth = self.chains.back_up(self.vm)
        self.is_full(fourth["vda"], "replaced, or is a copy")
        self.goes_on(third["vdb"], fourth["vdb"])

    def test_storage_is_rolled_back(self):
        """To before the last backup: libvirt has no bitmap of it then."""
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
        self.is_full(third["vda"], "is lost")
        self.assertIn("base", third["vdb"])
        self.write(5)
        self.goes_on(third["vda"], self.chains.back_up(self.vm)["vda"])

    def check_changed(self):
        """A is not what its bitmap says; what comes next goes on."""
        self.write(3)
        second = self.chains.back_up(self.vm)
        self.is_full(second["vda"], "its bytes at .* the bitmap does not say so")
        self.goes_on(self.first["vdb"], second["vdb"])
        self.write(4)
        self.goes_on(second["vda"], self.chains.back_up(self.vm)["vda"])

    def test_smaller_and_larger_again(self):
        """By the size nothing has changed."""
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
            self.is_full(disk, "its bytes at .* the bitmap does not say so")

    def test_bitmap_cleared(self):
        self.write(2)
        self.vm.quit()
        lib.run("qemu-img", "bitmap", "--clear", self.a.image, self.vm.checkpoints()[0])
        self.vm.start()
        self.check_changed()

    def test_large_disk_made_smaller_and_larger_again(self):
        """Whose data is noted in part: what was cut off had little."""
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
        self.is_full(snapshot.disks["vda"], f"its bytes at {63 * lib.GIB} are others")
        snapshot.finish("abort")

    def test_external_snapshot(self):
        """The chain goes on in the overlay, and in what is merged."""
        self.vm.virsh("snapshot-create-as", self.vm.name, "s", "--disk-only", "--no-metadata")
        self.write(2)
        second = self.chains.back_up(self.vm)
        self.goes_on(self.first["vda"], second["vda"])
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
        self.goes_on(self.first["vda"], second["vda"])


if __name__ == "__main__":
    lib.main()
