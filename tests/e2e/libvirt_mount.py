#!/usr/bin/env python3
"""`fleecefs libvirt:DOMAIN` as its users run it: mount, back up, commit or abort, restore."""
import time

import lib
import qmp_mount
from libvirtd import Domain
from outage import AT_ONCE
from vm import Disk


class LibvirtMount(lib.TestCase):
    def begin(self, vm, *options):
        return self.mount(vm.source(), env=vm.environment(),
                          options=["-o", "scratch=" + vm.scratch, *options])

    def end(self, vm, mount, command, status=0, says=r"\A\Z"):
        done = self.fleecefs(command, mount.point)
        self.assertRegex(done.stderr, says)
        self.assertEqual(done.returncode, status)
        mount.check_gone()

    def test_full_and_increments(self):
        lib.require("ddrescue")
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        for run, command in enumerate(("--commit", "--abort", "--commit")):
            vm.scribble(self.rng, 2)
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            mount = self.begin(vm)
            self.assertEqual(mount.folders(), ["vda", "vdb"])
            vm.scribble(self.rng, 1)
            for name, chain in chains.items():
                info = mount.json(f"{name}/info.json")
                self.assertEqual(info["mode"],
                                 "incremental" if run > 0 and name == "vda" else "full")
                backup = chain.copy(mount)
                chain.check(backup, expected[name])
                if command == "--commit":
                    chain.keep(backup)
            self.end(vm, mount, command)
            self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))

    def test_job_ended_by_others(self):
        """What is read after that fails, nothing can be committed, and to abort takes no time,
        also of a disk into which nobody looked before that."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.scribble(self.rng, 2)
        mount = self.begin(vm)
        vm.virsh("domjobabort", vm.name)
        # Waits for the daemon to see it, not for time to pass.
        while any(d["state"] == "ok" for d in mount.json(".fleecefs/status.json")["exports"]):
            pass
        self.assert_errno(5, qmp_mount.QmpMount.read_direct, mount / "vda/disk.raw")
        self.assert_refused("--commit", mount.point, says=["job in libvirt has ended", "--abort"])
        self.end(vm, mount, "--abort")
        mount = self.begin(vm)
        vm.virsh("domjobabort", vm.name)
        self.assert_refused("--commit", mount.point, says=["job in libvirt has ended", "--abort"])
        began = time.monotonic()
        self.end(vm, mount, "--abort")
        self.assertLess(time.monotonic() - began, AT_ONCE)
        self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    def test_shut_off(self):
        """The images themselves, with what changed since the last checkpoint."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        vm.scribble(self.rng, 2)
        vm.begin().finish("commit")
        vm.write("vda", 65536, 65536, 1)
        vm.quit()
        mount = self.begin(vm)
        for name, disk in vm.disks.items():
            self.assertTrue(mount.read(f"{name}/disk.raw", "rb") == disk.model, name)
        self.assertEqual(mount.json("vda/info.json")["mode"], "incremental")
        extents = [e for e in mount.json("vda/dirty/last.json") if e["dirty"]]
        self.assertEqual([(e["start"], e["length"]) for e in extents], [(65536, 65536)])
        self.end(vm, mount, "--commit")
        self.assertEqual(len(vm.checkpoints()), 1)

    def test_shut_off_by_a_crash(self):
        """The bitmap is not to be trusted then: a full backup that says so."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.begin().finish("commit")
        vm.quit()
        vm.start()
        vm.write("vda", 65536, 65536, 1)
        vm.io("vda", "flush")
        vm.kill()
        mount = self.begin(vm)
        info = mount.json("vda/info.json")
        self.assertEqual(info["mode"], "full")
        self.assertIn("inconsistent", info["reason"])
        self.assertFalse([f for f in mount.files() if "dirty/last" in f])
        mount.read("vda/disk.raw", "rb")
        self.end(vm, mount, "--commit")


if __name__ == "__main__":
    lib.main()
