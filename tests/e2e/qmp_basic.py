#!/usr/bin/env python3
"""Snapshots of a real QEMU: contents of snapshots and increments, and cleanup."""
import os

import lib
from monitor import Proxy
from vm import Disk, QmpError, Refused, Vm


class Basic(lib.TestCase):
    def check_clean(self, vm, points=None):
        self.assertEqual(vm.leftovers(), [])
        self.assertEqual({n: len(p) for n, p in vm.points().items()}, points or {})

    def test_content_stands_still(self):
        vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb", kind="raw")])
        vm.scribble(self.rng)
        before = {n: bytes(d.model) for n, d in vm.disks.items()}
        snapshot = vm.begin()
        self.assertEqual([snapshot.read(n) for n in before], list(before.values()))
        vm.scribble(self.rng, 20)
        vm.zero("vda", 0, 16 * lib.MIB)
        vm.io("vda", "write -P 7 100 100")
        self.assertEqual([snapshot.read(n) for n in before], list(before.values()))
        print("begin %(begin_us)d us" % snapshot.info, end=" ")
        snapshot.finish("abort")
        self.check_clean(vm)

    def test_increments(self):
        """Full, increment, a failed run, and an increment with everything since the last good one."""
        vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb", kind="raw"),
                       Disk(self, "vdc", kind="data-file"), Disk(self, "vdd", style="drive")])
        backup = {}
        for run, end in enumerate(("commit", "commit", "abort", "commit", "kill", "commit")):
            vm.scribble(self.rng)
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            snapshot = vm.begin()
            self.assertEqual(set(snapshot.disks), set(vm.disks))
            vm.scribble(self.rng, 3)
            for name, disk in snapshot.disks.items():
                self.assertEqual("base" in disk, run > 0, disk)
                self.assertTrue(snapshot.read(name) == expected[name], f"run {run} disk {name}")
                new = snapshot.backup(name, backup.get(name))
                self.assertTrue(new == expected[name], f"run {run} disk {name}")
                if end == "commit":
                    backup[name] = new
            if end == "kill":
                snapshot.kill()
                continue
            snapshot.finish(end)
            self.assertEqual(vm.leftovers(), [])
            self.assertEqual([len(p) for p in vm.points().values()], [1] * 4)

    def test_increment_is_small(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.write("vda", 0, lib.MIB, 1)
        vm.begin().finish("commit")
        vm.write("vda", 5 * 65536, 512, 2)
        snapshot = vm.begin()
        self.assertEqual(snapshot.map("vda"), [(5 * 65536, 6 * 65536)])
        self.assertEqual(snapshot.disks["vda"]["bitmaps"][0]["granularity"], 65536)
        vm.write("vda", 0, lib.MIB, 3)
        self.assertEqual(snapshot.map("vda"), [(5 * 65536, 6 * 65536)])

    def test_series_are_independent(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.begin("--series", "day").finish("commit")
        vm.write("vda", 0, 65536, 1)
        vm.begin("--series", "week.1").finish("commit")
        vm.write("vda", 65536, 65536, 2)
        day = vm.begin("--series", "day")
        self.assertEqual(day.map("vda", "day"), [(0, 131072)])
        day.finish("commit")
        week = vm.begin("--series", "week.1")
        self.assertEqual(week.map("vda", "week.1"), [(65536, 131072)])
        week.finish("abort")
        self.assertEqual((len(vm.points("day")), len(vm.points("week.1"))), (1, 1))

    def test_users_bitmaps_are_shown_and_kept(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.qmp("block-dirty-bitmap-add", node="vda", name="mine", granularity=4096)
        vm.qmp("block-dirty-bitmap-add", node="vda", name="last", granularity=4096)
        vm.write("vda", 8192, 4096, 1)
        before = vm.bitmaps()
        snapshot = vm.begin()
        vm.write("vda", 0, 4096, 1)
        self.assertEqual(snapshot.map("vda", "mine"), [(8192, 12288)])
        self.assertEqual([b["name"] for b in snapshot.disks["vda"]["bitmaps"]], ["mine"])
        self.assertIn("'last' is left out", " ".join(snapshot.info["notes"]))
        snapshot.finish("abort")
        after = vm.bitmaps()
        self.assertEqual(set(before), set(after))
        self.assertEqual(after["vda", "mine"]["count"], 8192)

    def test_chosen_disks(self):
        vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb", style="drive"), Disk(self, "vdc")])
        snapshot = vm.begin("--disk", "vda", "--disk", "vdb")
        self.assertEqual(set(snapshot.disks), {"vda", "vdb"})
        snapshot.finish("commit")
        with self.assertRaisesRegex(Refused, "no disk 'sda'; the VM has: vdb, vda, vdc"):
            vm.begin("--disk", "sda")

    def test_media_are_left_out(self):
        iso = self.path("iso")
        with open(iso, "wb") as f:
            f.truncate(lib.MIB)
        vm = Vm(self, [Disk(self, "vda")], [
            "-drive", f"file={iso},format=raw,if=none,id=cd,readonly=on,media=cdrom",
            "-device", "ide-cd,drive=cd", "-device", "ide-cd,bus=ide.1"])
        self.assertEqual(set(vm.begin().disks), {"vda"})

    def test_a_new_disk_is_full_and_the_others_are_not(self):
        vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb")])
        vm.begin("--disk", "vda").finish("commit")
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])
        self.assertIn("no restore point", snapshot.disks["vdb"]["reason"])
        snapshot.finish("commit")
        self.check_clean(vm, {"vda": 1, "vdb": 1})

    def test_full_when_asked_for(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.begin().finish("commit")
        snapshot = vm.begin("--full")
        self.assertIn("requested", snapshot.disks["vda"]["reason"])
        snapshot.finish("commit")
        self.check_clean(vm, {"vda": 1})

    def test_full_when_the_size_changed(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.begin().finish("commit")
        vm.qmp("block_resize", node_name="vda", size=20 * lib.MIB)
        snapshot = vm.begin()
        self.assertIn("size changed", snapshot.disks["vda"]["reason"])
        self.assertEqual(snapshot.disks["vda"]["size"], 20 * lib.MIB)
        snapshot.finish("commit")
        self.assertIn("base", vm.begin().disks["vda"])

    def test_time_differs_in_seconds(self):
        vm = Vm(self, [Disk(self, "vda")])
        seconds = []
        for _ in range(3):
            snapshot = vm.begin()
            seconds.append(snapshot.info["seconds"])
            snapshot.finish("abort")
        self.assertEqual(len(set(seconds)), 3)

    def test_begin_is_quick(self):
        """A snapshot takes one transaction, and a few commands for each disk."""
        vm = Vm(self, [Disk(self, f"vd{c}", size=1 * lib.MIB) for c in "abcdefgh"])
        monitor = Proxy(vm)
        snapshot = vm.begin(monitor=monitor.path)
        # QEMU is polled for jobs while it creates the scratch images.
        commands = [c for c in monitor.commands if c != "query-jobs"]
        snapshot.finish("abort")
        monitor.thread.join(lib.PATIENCE)
        print("8 disks: %d commands, %d us" % (len(commands), snapshot.info["begin_us"]), end=" ")
        self.assertEqual(commands.count("transaction"), 1)
        self.assertLess(len(commands), 8 * 24 + 32)

    def test_a_server_that_runs_already(self):
        vm = Vm(self, [Disk(self, "vda")])
        path = self.path("user.sock")
        vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        with self.assertRaisesRegex(Refused, "NBD server already runs in this VM"):
            vm.begin()
        with self.assertRaises(QmpError):
            vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        snapshot = vm.begin("--nbd", f"nbd+unix:///?socket={path}")
        snapshot.info["socket"] = path
        self.assertEqual(snapshot.read("vda"), vm.disks["vda"].model)
        snapshot.finish("commit")
        vm.qmp("nbd-server-stop")
        self.check_clean(vm, {"vda": 1})

    def test_qemu_without_rights(self):
        """QEMU has no access to the scratch directory or to the socket's directory."""
        if os.geteuid() != 0:
            self.skipTest("needs root, to start QEMU as another user")
        newer = "user=" in lib.run("qemu-system-x86_64", "-help").partition("\n-run-with ")[2][:200]
        vm = Vm(self, [Disk(self, "vda")],
                ["-run-with", "user=nobody"] if newer else ["-runas", "nobody"])
        vm.scribble(self.rng)
        before = bytes(vm.disks["vda"].model)
        snapshot = vm.begin()
        vm.scribble(self.rng)
        self.assertTrue(snapshot.read("vda") == before)
        snapshot.finish("commit")
        self.check_clean(vm, {"vda": 1})

    def test_nothing_is_left_on_the_host(self):
        vm = Vm(self, [Disk(self, "vda")])
        before = set(os.listdir(self.dir))
        vm.begin().finish("commit")
        self.assertEqual(set(os.listdir(self.dir)), before)


if __name__ == "__main__":
    lib.main()
