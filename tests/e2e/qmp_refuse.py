#!/usr/bin/env python3
"""Command lines for a running VM that cannot work: one line says why, and nothing is left in it."""
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
        self.refused("disk=vdx", "there is no disk 'vdx'; there are: vdc, vda, vdb")
        self.refused("disk=vda:vdx", "there is no disk 'vdx'")
        self.refused("disk=", "a name is empty", 2)
        self.refused("disk=vda::vdb", "a name is empty", 2)
        self.refused("series=", "a name has 1 to 100 letters", 2)
        self.refused("series=a/b", "a name has 1 to 100 letters", 2)
        self.refused("since=x", "option since is not for sources qmp:PATH", 2)
        self.refused("full=no", "option full takes no value", 2)
        self.refused("freeze_timeout=-1", "'-1' is not a number of seconds", 2)
        self.refused("scratch=/nowhere", "scratch directory /nowhere: No such file .* names another")
        self.refused("scratch=/proc", "scratch directory /proc: 0 MiB free, .* names another")
        self.refused("agent=/nowhere", "guest agent /nowhere: No such file .*; -o agent_optional")
        self.refused("nbd=nowhere", "'nowhere' is no NBD URI", 2)
        self.refused("nbd=nbd://localhost", "there is no NBD server in this VM: leave -o nbd= out")

    def test_sources(self):
        self.check(2, "no mount point", self.source)
        self.check(2, "qmp:PATH needs the path", "qmp:", self.point)
        self.check(1, "qmp:/nowhere: cannot connect: No such file .* does QEMU run, with -qmp",
                   "qmp:/nowhere", self.point)
        self.check(1, "nobody listens there; does QEMU run", "qmp:/etc/passwd", self.point)
        self.check(1, "create the folder first", self.source, "/nowhere/mnt")
        self.check(2, "give one source", "--recover")
        self.check(2, "other sources leave nothing", "--recover", "nbd://localhost")
        self.check(1, "not a fleecefs mount", "--commit", self.point)
        self.check(1, "not a fleecefs mount", "--abort", self.point)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(self.vm.monitor)
            self.refused("full", "no QMP greeting in 5 s: another client is connected to this "
                         "monitor, which takes one at a time")

    def test_servers(self):
        """The one server that QEMU has runs already, and somebody says where."""
        path = self.path("server")
        self.vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
        leftovers = self.vm.leftovers
        self.vm.leftovers = lambda: [x for x in leftovers() if "server already" not in x]
        self.refused("full", "an NBD server runs in this VM already; stop it .*, or say with -o nbd=")
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
