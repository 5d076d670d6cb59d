#!/usr/bin/env python3
"""Backups of a busy guest: it is frozen briefly, and each backup restores to a consistent state."""
import json
import os
import socket

import guest
import lib
from vm import Disk, Vm


class Agent:
    """A connection to the guest agent, whose channel has one client at a time."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(2 * lib.PATIENCE) # it may be booting, without KVM
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        token = int.from_bytes(os.urandom(4), "big")
        self._send("guest-sync-delimited", id=token, before=b"\xff")
        # Skips replies to earlier clients.
        while self._answer() != {"return": token}:
            pass
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def _send(self, command, before=b"", **args):
        args = {k.replace("_", "-"): v for k, v in args.items()}
        message = json.dumps({"execute": command, "arguments": args})
        self.socket.sendall(before + message.encode() + b"\n")

    def _answer(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the agent's channel was closed")
        return json.loads(line.lstrip(b"\xff"))

    def __call__(self, command, **args):
        self._send(command, **args)
        answer = self._answer()
        if "error" in answer:
            raise AssertionError(f"{command}: {answer['error']['desc']}")
        return answer["return"]


class GuestVm(guest.Guest, Vm):
    """A VM that runs Linux, with one filesystem on each of its DISKS and none on MORE."""

    def __init__(self, test, disks, more=()):
        kernel, initrd = guest.make_guest()
        guest.make_filesystems(test, disks)
        self.channel, self.console = test.path("agent"), test.path("console")
        super().__init__(test, [*disks, *more], [
            "-kernel", kernel, "-initrd", initrd, "-append", guest.COMMAND_LINE,
            "-cpu", "max", "-m", "256", "-serial", f"file:{self.console}", "-no-reboot",
            "-chardev", f"socket,id=agent,path={self.channel},server=on,wait=off",
            "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"])
        try:
            self.run("test -d /mnt/vda/lost+found -a -d /mnt/vdb/lost+found")
        except OSError as error:
            with open(self.console, errors="replace") as f:
                raise AssertionError(f"{error}\n{f.read()}") from error

    def agent(self, command, **args):
        with Agent(self.channel) as agent:
            return agent(command, **args)

    def source(self):
        return "qmp:" + self.monitor

    def mount_options(self):
        return ["-o", f"scratch={self.test.dir},agent={self.channel}"]


class QmpGuest(guest.GuestTest, lib.TestCase):
    def setUp(self):
        lib.require("ddrescue")
        super().setUp()
        self.vm = GuestVm(self, [Disk(self, "vda", guest.SIZE),
                                 Disk(self, "vdb", guest.SIZE, kind="raw")])

    def test_backups_of_a_guest_at_work(self):
        self.back_up_at_work()


class FastWrites(lib.TestCase):
    def test_small_scratch_space(self):
        """Writes may be paused briefly; none fails, and the snapshot is lost."""
        size = 256 * lib.MIB
        vm = GuestVm(self, [Disk(self, "vda", guest.SIZE), Disk(self, "vdb", guest.SIZE, kind="raw")],
                     [Disk(self, "vdc", size)])
        scratch = self.mkdir("scratch")
        for room in "100m", "24m":
            vm.io("vdc", f"write -P 1 0 {size}")
            lib.run("mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", scratch)
            self.defer(lib.attempt, "umount", "-l", scratch)
            snapshot = vm.begin("--scratch", scratch, "--disk", "vdc")
            vm.run(f"""
                for size in 4 1; do
                    dd if=/dev/zero of=/dev/vdc bs=${{size}}M count=$(({size >> 20} / size)) oflag=direct
                done
                ! dmesg | grep -i 'i/o error'""")
            self.assertRegex(snapshot.line(), "^lost: vdc: (the scratch directory|no space for a write)")
            self.assertEqual(vm.qmp("query-status")["status"], "running")
            self.assertEqual(snapshot.ask("abort"), "ok")
            snapshot.kill()
            lib.run("umount", "-l", scratch)
            vm.io("vdc", f"read -P 0 0 {size}")


if __name__ == "__main__":
    lib.main()
