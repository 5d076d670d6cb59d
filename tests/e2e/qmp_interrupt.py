#!/usr/bin/env python3
"""A signal while a snapshot begins: everything is undone, without waiting for silent peers."""
import signal
import socket
import subprocess
import threading

import lib
from monitor import Filter
from qmp_agent import Agent
from vm import Disk, Vm


class Interrupt(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB)])

    def start(self, path, *options):
        """Starts a mount to interrupt, with much longer timeouts."""
        point = self.mkdir("mnt")
        self.defer(lib.attempt, "umount", "-l", point)
        process = subprocess.Popen(
            [*lib.FLEECEFS, "-f", "-o", ",".join([f"scratch={self.dir}", *options]),
             f"qmp:{path}", point], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env=self.vm.environment(),
            preexec_fn=lib.die_with_us)
        self.defer(process.kill)
        return process

    def check(self, process, status=(1,)):
        said = process.communicate(timeout=lib.PATIENCE)[1]
        self.assertIn(process.returncode, status, said)
        if process.returncode == 1:
            # A late signal can follow the notes about full backups.
            self.assertRegex(said, r"\A(fleecefs: disk [^\n]*: full backup, [^\n]*\n)*"
                             r"fleecefs: [^\n]*interrupted by a signal[^\n]*\n\Z")
        self.assertEqual((self.vm.leftovers(), self.vm.points()), ([], {}))

    def test_agents(self):
        """One that never stops sending, and a silent one."""
        for flood in (True, False):
            with self.subTest(flood=flood), socket.socket(socket.AF_UNIX) as listener:
                path = self.path("ga")
                listener.bind(path)
                listener.listen(1)
                process = self.start(self.vm.monitor, f"agent={path}")
                with listener.accept()[0] as client:
                    client.recv(1)
                    process.send_signal(signal.SIGTERM)
                    try:
                        while flood:
                            client.sendall(b"{}\n" * 1000)
                    except OSError:
                        pass
                    self.check(process)

    def test_frozen(self):
        """The guest is thawed."""
        agent = Agent(self)
        process = None

        def freeze():
            process.send_signal(signal.SIGINT)
            return b'{"return": 1}\n'
        agent.on = {"freeze": freeze}
        started = threading.Event()
        agent.on["status"] = lambda: started.wait(lib.PATIENCE) and b'{"return": "frozen"}\n'
        process = self.start(self.vm.monitor, f"agent={agent.path}")
        started.set()
        self.check(process)
        self.assertEqual(agent.said.count("thaw"), agent.said.count("freeze"), agent.said)
        self.assertIs(agent.frozen, False)

    def interrupt(self, when, answers):
        """Sends a signal at the reply to command WHEN, which is forwarded if ANSWERS. Returns whether there
        was such a command."""
        process, started, seen = None, threading.Event(), threading.Event()

        def edit(message):
            if "event" in message or len(proxy.commands) < when or seen.is_set():
                return message
            started.wait(lib.PATIENCE)
            process.send_signal(signal.SIGTERM)
            seen.set()
            return message if answers else None
        proxy = Filter(self.vm, edit)
        process = self.start(proxy.path, "timeout=3600")
        started.set()
        threading.Thread(target=self.end_mounted, args=(process, seen), daemon=True).start()
        self.check(process, status=(0, 1) if answers else (1,))
        proxy.thread.join(lib.PATIENCE)
        return seen.is_set()

    def end_mounted(self, process, seen):
        """Ends a mount that was established with fewer commands."""
        if not seen.wait(lib.PATIENCE / 4):
            process.terminate()

    def test_any_command(self):
        """From the first command to those after the mount is established."""
        for when in range(self.rng.randint(1, 9), 80, 9):
            with self.subTest(when=when):
                self.interrupt(when, answers=True)

    def test_monitor_that_falls_silent(self):
        """During the query for disks."""
        self.assertTrue(self.interrupt(2, answers=False))


if __name__ == "__main__":
    lib.main()
