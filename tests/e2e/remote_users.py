#!/usr/bin/env python3
"""A VM on another host, without root: an ordinary user here, and one in the group libvirt there."""
import contextlib
import grp
import json
import os
import re
import signal
import stat
import time

import lib
import sshd
from libvirtd import Domain
from vm import Disk

MEMBER = 65534  # libvirtd must know the user id


class Base(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("setfacl")
        self.account = sshd.Account(self)
        self.tmp = self.account.env["TMPDIR"]
        self.vm = Domain(self, [Disk(self, n, lib.MIB) for n in ("vda", "vdb")])
        self.let_members_in()

    def let_members_in(self):
        """As Debian's libvirtd.socket does."""
        path = self.vm.libvirtd.socket
        before = os.stat(path)
        os.chown(path, 0, grp.getgrnam("libvirt").gr_gid)
        os.chmod(path, 0o770)
        self.defer(os.chmod, path, stat.S_IMODE(before.st_mode))
        self.defer(os.chown, path, 0, before.st_gid)

    def connect(self, groups=("libvirt",), uid=MEMBER, more="", **kwargs):
        """Returns the URI of libvirt, there as an ordinary user. MORE: for ssh_config(5)."""
        self.server = sshd.Sshd({"member": (uid, groups)}, **kwargs)
        self.account.configure_ssh(self.server, "member", more)
        return f"qemu+ssh://hv/system?socket={self.vm.libvirtd.socket}"

    def begin(self, uri, *options):
        self.account.run(self.account.program, f"--scratch={self.vm.scratch}", *options,
                         f"libvirt:{self.vm.name}?connect={uri}", self.account.point)

    def end(self, command, status=0):
        done = self.account.attempt(self.account.program, command, self.account.point)
        self.assertEqual((done.stderr, done.returncode), ("", status))
        self.assertFalse(self.account.is_mounted())

    def recover(self, uri):
        return self.account.run(self.account.program, "--recover", f"--scratch={self.vm.scratch}",
                                f"libvirt:{self.vm.name}?connect={uri}")

    def check(self, mode, expected):
        """The mount has MODE and the content EXPECTED of each disk."""
        for name, content in expected.items():
            top = f"{self.account.point}/{name}"
            self.assertEqual(json.loads(self.account.run("cat", f"{top}/info.json"))["mode"], mode)
            with open(self.path("expected"), "wb") as f:
                f.write(content)
            os.chmod(f.name, 0o644)
            self.account.run("cmp", f.name, f"{top}/disk.raw")
            for kind in ("map", "raw") if mode == "incremental" else ():
                self.account.run("cat", f"{top}/dirty/last.{kind}", text=False)

    def check_nothing_left(self, points):
        self.assertEqual((self.vm.leftovers(), len(self.vm.checkpoints()), os.listdir(self.tmp)),
                         ([], points, []))

    def refused(self, uri, *says, points=0):
        done = self.account.attempt(self.account.program, f"--scratch={self.vm.scratch}",
                                    f"libvirt:{self.vm.name}?connect={uri}", self.account.point)
        self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")
        self.assertEqual(done.returncode, 1)
        for word in says:
            self.assertIn(word, done.stderr)
        self.await_end()
        self.check_nothing_left(points)

    def await_end(self):
        """Waits until no process of the user here is left."""
        for _ in range(lib.PATIENCE * 100):
            if not self.account.processes():
                return
            time.sleep(0.01)
        raise AssertionError(f"left here: {self.account.processes()}")


class Users(Base):
    def test_mount(self):
        uri = self.connect()
        for mode, command in (("full", "--commit"), ("incremental", "--abort"), ("incremental", "--commit")):
            self.vm.scribble(self.rng, 2)
            expected = {n: bytes(d.model) for n, d in self.vm.disks.items()}
            self.begin(uri)
            self.vm.scribble(self.rng, 1)
            [folder] = os.listdir(self.vm.scratch)
            folder = f"{self.vm.scratch}/{folder}"
            self.assertEqual(lib.attempt("setpriv", "--reuid=64997", "--regid=65534", "--clear-groups",
                                         "ls", folder).returncode, 2)
            self.check(mode, expected)
            self.end(command)
            self.check_nothing_left(1)

    def test_killed(self):
        """The next mount or --recover cleans up there."""
        uri, pidfile = self.connect(), f"{self.account.home}/pid"
        self.vm.scribble(self.rng, 2)
        expected = {n: bytes(d.model) for n, d in self.vm.disks.items()}
        for again in (False, True):
            self.begin(uri, f"--pidfile={pidfile}")
            with open(pidfile) as f:
                pid = int(f.read())
            with contextlib.closing(os.fdopen(os.pidfd_open(pid))) as pidfd:
                os.kill(pid, signal.SIGKILL)
                lib.wait_gone(pidfd.fileno(), "the daemon")
            self.account.run("fusermount3", "-u", "-z", self.account.point)
            self.await_end()
            self.assertEqual(len(os.listdir(self.vm.scratch)), 1)
            if again:
                self.begin(uri)
                self.check("full", expected)
                self.end("--abort")
            else:
                self.assertIn("ended a backup job", self.recover(uri))
            self.check_nothing_left(0)

    def test_backup(self):
        """fleecefs-backup and fleecefs-restore."""
        uri, to = self.connect(), self.account.mkdir("backups")
        uri += f"&netcat={self.server.netcat}"
        for mode in ("full", "since"):
            self.vm.scribble(self.rng, 2)
            done = self.account.attempt(f"{self.account.contrib}/fleecefs-backup", "--all",
                                        f"--connect={uri}", "-o", f"scratch={self.vm.scratch}",
                                        "--verify", "qcow2", to)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stderr, f"(?s){self.vm.name}: [^ ]+: vda {mode}.*"
                                          f"{self.vm.name}: [^ ]+: done")
            self.check_nothing_left(1)
        for name, disk in self.vm.disks.items():
            out, plain = f"{self.account.home}/{name}", self.path("plain")
            self.account.run(f"{self.account.contrib}/fleecefs-restore", f"{to}/{self.vm.name}",
                             "-d", name, out)
            lib.run("qemu-img", "convert", "-O", "raw", out, plain)
            with open(plain, "rb") as f:
                self.assertTrue(f.read() == disk.model)

    def test_no_acl(self):
        """If QEMU cannot be let in, nothing is left, and the message says what to do."""
        tools = self.mkdir("tools")
        for name in os.listdir("/usr/bin"):
            if name != "setfacl":
                os.symlink(f"/usr/bin/{name}", f"{tools}/{name}")
        uri = self.connect(config=f"SetEnv PATH={tools}\n")
        self.refused(uri, "on hv: only an ACL lets the VM's process", "of user member", "install setfacl")
        os.symlink("/usr/bin/false", f"{tools}/setfacl")  # as where there are no ACLs
        self.refused(uri, "choose one with ACLs")

    def test_user_of_the_vm(self):
        """QEMU's user needs no ACL, and continues the chain of the other user."""
        owner = re.search(r"<label>\+(\d+):", self.vm.virsh("dumpxml", self.vm.name))
        self.vm.scribble(self.rng, 2)
        expected = {n: bytes(d.model) for n, d in self.vm.disks.items()}
        for uid, mode in ((MEMBER, "full"), (int(owner[1]), "incremental")):
            self.begin(self.connect(uid=uid))
            self.check(mode, expected)
            self.end("--commit")
            self.check_nothing_left(1)


if __name__ == "__main__":
    lib.main()
