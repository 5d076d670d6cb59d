#!/usr/bin/env python3
"""The guest is frozen as briefly as possible, and thawed whatever happens."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import lib
from monitor import Filter
from vm import Disk, Refused, Vm


class Agent:
    """A guest agent: `said` are the commands received, `frozen` is the resulting state."""

    def __init__(self, test, on=None):
        self.path = test.path("ga")
        self.said, self.frozen, self.on = [], False, on or {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(4)
        test.defer(self.close)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(lib.PATIENCE)
        self.listener.close()

    def _run(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                try:
                    for line in lines:
                        answer = self._answer(line)
                        if answer is not None:
                            client.sendall(answer)
                except OSError:
                    pass # the client was killed

    def _answer(self, line):
        command = json.loads(line.lstrip(b"\xff"))
        name = command["execute"]
        if name == "guest-sync-delimited":
            if "sync" in self.on:
                return None
            return b"\xff" + json.dumps({"return": command["arguments"]["id"]}).encode() + b"\n"
        name = name.removeprefix("guest-fsfreeze-")
        self.said.append(name)
        if name == "freeze":
            self.frozen = True
        value = {"status": "frozen" if self.frozen else "thawed"}.get(name, 1)
        if name == "thaw":
            self.frozen = False
        if name in self.on:
            return self.on[name]()
        return json.dumps({"return": value}).encode() + b"\n"


OK = b'{"return": 1}\n'


def fail():
    return b'{"error": {"class": "GenericError", "desc": "it is broken"}}\n'


class Freeze(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB)],
                     ["-uuid", "1f0c3f3a-1111-4222-8333-944455556666"])

    def begin(self, agent, *options):
        return self.vm.begin("--agent", agent.path, *options)

    def check_clean(self, agent):
        self.assertFalse(agent.frozen)
        self.assertEqual(self.vm.leftovers(), [])
        self.assertEqual(self.vm.points(), {})

    def test_frozen_and_thawed(self):
        agent = Agent(self)
        snapshot = self.begin(agent)
        self.assertEqual(agent.said, ["freeze", "status", "thaw"])
        self.assertGreater(snapshot.info["frozen_us"], 0)
        self.assertLess(snapshot.info["frozen_us"], snapshot.info["begin_us"])
        print("frozen %(frozen_us)d us of %(begin_us)d us" % snapshot.info, end=" ")
        self.assertFalse(agent.frozen)
        snapshot.finish("abort")
        self.check_clean(agent)

    def test_no_answer(self):
        agent = Agent(self, {"sync": None})
        with self.assertRaisesRegex(Refused, "no answer; check that qemu-guest-agent runs"):
            self.begin(agent)
        self.check_clean(agent)

    def test_no_answer_with_agent_optional(self):
        agent = Agent(self, {"freeze": fail})
        snapshot = self.begin(agent, "--agent-optional")
        self.assertIn("the guest was not frozen", " ".join(snapshot.info["notes"]))
        self.assertEqual(agent.said, ["freeze", "thaw"])
        snapshot.finish("abort")
        self.check_clean(agent)

    def test_freeze_fails(self):
        agent = Agent(self, {"freeze": fail})
        with self.assertRaisesRegex(Refused, "it is broken"):
            self.begin(agent)
        self.assertEqual(agent.said, ["freeze", "thaw"])
        self.check_clean(agent)

    def test_freeze_takes_too_long(self):
        agent = Agent(self, {"freeze": lambda: None})
        with self.assertRaisesRegex(Refused, "no answer"):
            self.begin(agent, "--freeze-timeout", "1")
        self.assertEqual(agent.said, ["freeze", "thaw"])
        self.check_clean(agent)

    def test_guest_thaws_by_itself(self):
        agent = Agent(self, {"status": lambda: b'{"return": "thawed"}\n'})
        with self.assertRaisesRegex(Refused, "did not stay frozen"):
            self.begin(agent)
        self.assertEqual(agent.said, ["freeze", "status", "thaw"])
        self.check_clean(agent)
        snapshot = self.begin(agent, "--agent-optional")
        self.assertIn("did not stay frozen", " ".join(snapshot.info["notes"]))

    def test_thaw_fails(self):
        """The guest may still be frozen: this is reported, and the next session tries again."""
        agent = Agent(self, {"thaw": fail})
        with self.assertRaisesRegex(Refused, "may still be frozen"):
            self.begin(agent)
        agent.on = {}
        self.assertIn("thawed the guest", self.vm.recover())
        self.check_clean(agent)

    def test_transaction_fails(self):
        agent = Agent(self)

        def refuse(message):
            if "return" in message and monitor.commands[-1] == "transaction" and not refused:
                refused.append(message)
                message = {"error": {"class": "GenericError", "desc": "no"}, "id": message["id"]}
            return message

        refused = []
        monitor = Filter(self.vm, refuse)
        with self.assertRaisesRegex(Refused, "cannot take the snapshot: no"):
            self.vm.begin("--agent", agent.path, monitor=monitor.path)
        self.assertEqual(agent.said, ["freeze", "thaw"])
        self.check_clean(agent)

    def test_qemu_hangs_while_frozen(self):
        """The guest is thawed on timeout."""
        agent = Agent(self)
        monitor = Filter(self.vm, lambda message: None if "return" in message and
                         "transaction" in monitor.commands else message)
        times = {}
        agent.on = {"freeze": lambda: times.setdefault("freeze", time.monotonic()) and OK,
                    "thaw": lambda: times.setdefault("thaw", time.monotonic()) and OK}
        with self.assertRaisesRegex(Refused, "no answer to transaction"):
            self.vm.begin("--agent", agent.path, "--freeze-timeout", "1", "--timeout", "2",
                          monitor=monitor.path)
        self.assertFalse(agent.frozen)
        print("frozen for %.1f s" % (times["thaw"] - times["freeze"]), end=" ")
        self.assertLess(times["thaw"] - times["freeze"], 5)
        self.vm.recover()
        self.check_clean(agent)

    def test_signal_while_frozen(self):
        """A signal never leaves the guest frozen."""
        for number, front in ((signal.SIGTERM, ["-f"]), (signal.SIGINT, ["-f"]),
                              (signal.SIGHUP, ["-f"]), (signal.SIGINT, [])):
            with self.subTest(number=number, front=front):
                agent, pid = Agent(self), []
                agent.on = {"freeze": lambda: (os.kill(pid[0], number), OK)[1]}
                point = self.mkdir("mnt")
                process = subprocess.Popen(
                    [*lib.FLEECEFS, *front, "-o", f"scratch={self.dir},agent={agent.path}",
                     "qmp:" + self.vm.monitor, point], env=self.vm.environment(),
                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    preexec_fn=lib.die_with_us)
                pid.append(process.pid)
                self.assertEqual(process.wait(lib.PATIENCE), 1 if front else -number)
                for child in set(lib.children(os.getpid())) - {self.vm.process.pid}:
                    os.waitpid(child, 0) # the background process was reparented to us
                self.assertEqual([s for s in agent.said if s != "status"], ["freeze", "thaw"])
                self.assertFalse(lib.is_mounted(point))
                self.check_clean(agent)

    def test_killed_while_frozen(self):
        for recover in (True, False):
            tool = {}
            ready = threading.Event()

            def kill():
                ready.wait(lib.PATIENCE)
                os.kill(tool["pid"], 9)

            agent = Agent(self, {"freeze": kill})
            vm = self.vm
            popen = lib.subprocess.Popen

            def start(*args, **kwargs):
                process = popen(*args, **kwargs)
                tool["pid"] = process.pid
                ready.set()
                return process

            lib.subprocess.Popen = start
            try:
                with self.assertRaises(Refused):
                    self.begin(agent)
            finally:
                lib.subprocess.Popen = popen
            self.assertTrue(agent.frozen)
            agent.on = {}
            if recover:
                self.assertIn("thawed the guest", vm.recover())
            else:
                vm.begin().finish("abort") # not told of the agent
            self.assertEqual(agent.said, ["freeze", "thaw"])
            self.check_clean(agent)


if __name__ == "__main__":
    lib.main()
