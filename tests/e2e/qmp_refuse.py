#!/usr/bin/env python3
"""Invalid command lines for a running VM: one line explains the error, and the VM is unchanged."""
import socket

import lib
from vm import Disk, Vm


class Refuse(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw"),
                            Disk(self, "vdc", lib.MIB, style="drive")])
        self.source, self.point = "qmp:" + self.vm.monitor, self.mkdir("mnt")

    def check(self, status, says, *args):
        with self.subTest(args=args):
            done = lib.attempt(*lib.FLEECEFS, *args, env=self.vm.environment())
            self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
            self.assertRegex(done.stderr, f"^fleecefs: [^\n]*{says}[^\n]*\n$")
            self.assertFalse(lib.is_mounted(self.point))
            self.assertEqual(self.vm.leftovers(), [])
            self.assertEqual(self.vm.points(), {})

    def refused(self, options, says, status=1):
        self.check(status, says, "-o", f"scratch={self.dir},timeout=5,{options}", self.source,
                   self.point)

    def test_options(self):
        self.refused("disk=vdx", "no disk 'vdx'; the VM has: vdc, vda, vdb")
        self.refused("disk=vda:vdx", "no disk 'vdx'")
        self.refused("disk=", "empty name", 2)
        self.refused("disk=vda::vdb", "empty name", 2)
        self.refused("series=", "a name consists of 1 to 100 letters", 2)
        self.refused("series=a/b", "a name consists of 1 to 100 letters", 2)
        self.refused("since=x", "option since does not apply to sources qmp:PATH", 2)
        self.refused("full=no", "option full takes no value", 2)
        self.refused("freeze_timeout=-1", "'-1' is not a number of seconds", 2)
        self.refused("scratch=/nowhere", "scratch directory /nowhere: No such file .* choose another")
        self.refused("scratch=/proc", "scratch directory /proc: 0 MiB free, .* choose another")
        self.refused("agent=/nowhere", "guest agent /nowhere: No such file .*; -o agent_optional")
        self.refused("nbd=nowhere", "'nowhere' is not an NBD URI", 2)
        self.refused("nbd=nbd://localhost", "no NBD server runs in this VM; omit -o nbd=")

    def test_sources(self):
        self.check(2, "no mount point", self.source)
        self.check(2, "qmp:PATH needs the path", "qmp:", self.point)
        self.check(1, "qmp:/nowhere: cannot connect: No such file .* check that QEMU runs with -qmp",
                   "qmp:/nowhere", self.point)
        self.check(1, "no process listens there; check that QEMU runs", "qmp:/etc/passwd", self.point)
        self.check(1, "create the folder first", self.source, "/nowhere/mnt")
        self.check(2, "give one source", "--recover")
        self.check(2, "other sources leave nothing", "--recover", "nbd://localhost")
        self.check(1, "is not a fleecefs mount; fleecefs --list shows all", "--commit", self.point)
        self.check(1, "is not a fleecefs mount; fleecefs --list shows all", "--abort", self.point)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.vm.monitor)
            self.refused("full", "no QMP greeting in 5 s: another client is connected to this "
                         "monitor, which serves one at a time")

    def test_servers(self):
        """QEMU's only NBD server is running already, and -o nbd= gives its address."""
        path = self.path("server")
        self.vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        leftovers = self.vm.leftovers
        self.vm.leftovers = lambda: [x for x in leftovers() if "server already" not in x]
        self.refused("full", "an NBD server already runs in this VM; stop it .*, or give its address with -o nbd=")
        self.refused("nbd=nbd+unix:///?socket=/nowhere",
                     "disk .* is not exported by the server given with -o nbd=: cannot connect .*/nowhere")
        mount = self.mount(self.source, env=self.vm.environment(), options=[
            "-o", f"scratch={self.dir},nbd=nbd+unix:///?socket={path},disk=vdc:vda,series=week"])
        self.assertEqual(mount.folders(), ["vda", "vdc"])
        self.assertIn("series 'week'", mount.json("vda/info.json")["reason"])
        self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
        self.assertEqual(sorted(map(len, self.vm.points("week").values())), [1, 1])


if __name__ == "__main__":
    lib.main()
