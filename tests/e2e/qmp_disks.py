#!/usr/bin/env python3
"""Disks of a running VM that need a closer look: which are left out or refused, and which cannot be
backed up in increments."""
import os

import lib
from qmp_mount import Chain
from vm import Disk, Vm

KIB = lib.KIB


class QmpDisks(lib.TestCase):
    def begin(self, vm, *options):
        return self.mount("qmp:" + vm.monitor, env=vm.environment(),
                          options=["-o", f"scratch={self.dir}", *options])

    def commit(self, mount):
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 0, done.stderr)
        mount.check_gone()

    def back_up(self, vm, chain, *options):
        """A committed backup, checked and kept; what info.json said."""
        mount = self.begin(vm, *options)
        backup = chain.copy(mount)
        chain.check(backup, bytes(vm.disks[chain.name].model))
        chain.keep(backup)
        info = mount.json(f"{chain.name}/info.json")
        self.commit(mount)
        return info

    def test_comma(self):
        """A folder with a comma in its name."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        folder = self.path("with,comma")
        os.mkdir(folder)
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", "scratch=" + folder.replace(",", "\\,") + ",full"])
        self.assertIn("asked for", mount.json("vda/info.json")["reason"])
        self.assert_refused("-o", "scratch=" + folder, "qmp:" + vm.monitor, self.mkdir("other"),
                            status=2, says=["option 'comma' is not known"])


if __name__ == "__main__":
    lib.main()
