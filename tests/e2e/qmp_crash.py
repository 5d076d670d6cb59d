#!/usr/bin/env python3
"""The daemon is killed after each command that it sends to QEMU; the next one cleans up."""
import os
import socket
import subprocess
import threading

import lib
from monitor import Proxy
from qmp_agent import Agent
from vm import TOOL, Disk, Refused, Vm


class Crash(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")],
                     ["-uuid", "1f0c3f3a-1111-4222-8333-944455556666"])
        self.backup, self.base = {}, {}

    def cut(self, limit, commands=(), options=()):
        """Runs the tool with OPTIONS, sends it COMMANDS, and kills it at its command number LIMIT to QEMU.
        Returns the commands that QEMU got, the exit status and the output."""
        process = None
        ready = threading.Event()

        def kill():
            ready.wait(lib.PATIENCE)
            process.kill()

        proxy = Proxy(self.vm, limit, kill)
        process = subprocess.Popen([TOOL, "--scratch", self.dir, *options, "qmp:" + proxy.path],
                                   env=self.vm.environment(), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   preexec_fn=lib.die_with_us)
        ready.set()
        out, _ = process.communicate("".join(c + "\n" for c in commands).encode(), lib.PATIENCE)
        proxy.thread.join(lib.PATIENCE)
        return proxy.commands, process.returncode, out.decode().splitlines()

    def run_backup(self):
        """A successful run, whose result matches the VM's disks."""
        expected = {n: bytes(d.model) for n, d in self.vm.disks.items()}
        snapshot = self.vm.begin()
        for name in expected:
            self.assertEqual(snapshot.disks[name].get("base"), self.base.get(name))
            self.backup[name] = snapshot.backup(name, self.backup.get(name))
            self.assertTrue(self.backup[name] == expected[name], name)
        self.base = {name: d["restore_point"] for name, d in snapshot.disks.items()}
        snapshot.finish("commit")

    def bases(self):
        """Returns the only restore point of each disk."""
        points = self.vm.points()
        self.assertEqual([len(p) for p in points.values()], [1] * len(points))
        return {name: p[0].removeprefix("fleecefs.last.") for name, p in points.items()}

    def check_recovered(self, what):
        self.assertEqual(self.vm.leftovers(), [], what)
        self.assertEqual(self.vm.recover(), "", what)

    def test_killed_while_beginning(self):
        self.run_backup()
        agent = Agent(self)
        limit, status = 1, None
        while status != 0:
            self.vm.scribble(self.rng, 1)
            commands, status, _ = self.cut(limit, options=["--agent", agent.path])
            if status != 0:
                what = f"after {len(commands)} commands, the last {commands[-1]}"
                self.vm.recover()
                self.assertFalse(agent.frozen, what)
                self.check_recovered(what)
                self.assertEqual(self.bases(), self.base, what)
            limit += 1
        self.assertIn("block-export-add", commands)
        self.vm.recover()
        self.check_recovered("after all")
        self.run_backup()
        print(f"{limit} cuts", end=" ")

    def test_killed_while_frozen(self):
        """Killed while the guest is frozen, before and after the transaction was sent to QEMU."""
        agent = Agent(self)
        self.run_backup()
        for limit in ("transaction", "block-export-add"):
            self.cut(limit, options=["--agent", agent.path])
            self.assertEqual(agent.frozen, limit == "transaction")
            self.vm.recover()
            self.assertFalse(agent.frozen)
            self.check_recovered(limit)
            self.assertEqual(self.bases(), self.base)

    def test_without_the_journal(self):
        """QEMU's own state shows leftovers, and that a first restore point, alone on its disk, was
        never committed. Only the owner of an NBD server remains unknown."""
        limit, status = 10, None
        while status != 0:
            commands, status, _ = self.cut(limit)
            for name in os.listdir(self.vm.state):
                os.unlink(os.path.join(self.vm.state, name))
            self.vm.recover()
            if "nbd-server-start" in commands:
                self.vm.qmp("nbd-server-stop")
            self.check_recovered(f"after {commands}")
            self.assertEqual(self.bases(), {})
            limit += 1
        self.run_backup()

    def test_killed_while_ending(self):
        for end in ("commit", "abort"):
            self.run_backup()
            begun = len(self.cut(10000)[0])
            self.vm.recover()
            limit, answer = begun, []
            while len(answer) < 2:
                self.vm.scribble(self.rng, 1)
                held = {n: bytes(d.model) for n, d in self.vm.disks.items()}
                commands, _, answer = self.cut(limit, [end])
                what = f"{end}, after {commands[begun:]}"
                self.vm.recover()
                self.check_recovered(what)
                if (bases := self.bases()) != self.base:
                    # The command takes effect in QEMU even if its reply is lost.
                    self.assertEqual(end, "commit", what)
                    self.assertIn("transaction", commands[begun:], what)
                    # All disks have a new restore point, or none.
                    self.assertFalse(set(bases.values()) & set(self.base.values()), what)
                    self.assertEqual(bases.keys(), self.base.keys(), what)
                    self.backup, self.base = held, bases
                limit += 1
            self.assertEqual(answer[1], "ok")
            self.run_backup()

    def test_a_second_daemon_is_refused(self):
        snapshot = self.vm.begin()
        proxy = Proxy(self.vm)
        with self.assertRaisesRegex(Refused, "another client|another fleecefs"):
            self.vm.begin("--timeout", "1", monitor=proxy.path)
        proxy.client.close()
        self.assertEqual(snapshot.read("vda"), self.vm.disks["vda"].model)

    def test_monitor_that_closes(self):
        """QEMU continues, and so does the snapshot, which is monitored through a new connection."""
        proxy = Proxy(self.vm, connections=2)
        snapshot = self.vm.begin(monitor=proxy.path)
        before = len(proxy.commands)
        proxy.client.shutdown(socket.SHUT_RDWR)
        self.vm.qmp("job-cancel", id="fleecefs-0-job")
        self.assertRegex(snapshot.line(), "^lost: vd[ab]: its backup job")
        self.assertIn("qmp_capabilities", proxy.commands[before:])
        snapshot.finish("abort")
        self.check_recovered("after abort")


if __name__ == "__main__":
    lib.main()
