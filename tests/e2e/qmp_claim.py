#!/usr/bin/env python3
"""One VM with several monitors, and several daemons that want a snapshot of it at once."""
import os
import subprocess
import threading

import lib
from qmp_agent import Agent
from vm import TOOL, Disk, Refused, Vm

UUID = ["-uuid", "1f0c3f3a-1111-4222-8333-944455556666"]


class Claim(lib.TestCase):
    def vm(self, *arguments):
        """Returns a VM and the path of a second monitor."""
        other = self.path("other")
        vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")],
                ["-qmp", f"unix:{other},server=on,wait=off", *arguments])
        vm.scribble(self.rng)
        return vm, other

    def check_held(self, vm, snapshot, before):
        """The snapshot is intact after others' attempts."""
        self.assertEqual({n: snapshot.read(n) for n in before}, before)
        vm.scribble(self.rng, 2)
        self.assertEqual({n: snapshot.read(n) for n in before}, before)

    def test_two_monitors(self):
        for arguments in ((), UUID):
            with self.subTest(arguments=arguments):
                vm, other = self.vm(*arguments)
                before = {n: bytes(d.model) for n, d in vm.disks.items()}
                snapshot = vm.begin()
                with self.assertRaisesRegex(Refused, r"lock: another fleecefs uses this VM, process \d+; "
                                            "commit, abort or unmount it first"):
                    vm.begin(monitor=other)
                with self.assertRaisesRegex(AssertionError, "another fleecefs uses this VM"):
                    vm.recover(monitor=other)
                self.check_held(vm, snapshot, before)
                snapshot.finish("commit")
                self.assertEqual(vm.leftovers(), [])
                snapshot = vm.begin(monitor=other)
                self.assertIn("base", snapshot.disks["vda"])
                with self.assertRaisesRegex(Refused, "another fleecefs uses this VM"):
                    vm.begin()
                snapshot.finish("abort")
                self.assertEqual(vm.leftovers(), [])

    def test_recovery_through_another_monitor(self):
        """This includes what only the journal records: the frozen guest and the NBD server."""
        for recover in (True, False):
            with self.subTest(recover=recover):
                vm, other = self.vm()
                agent = Agent(self)
                pid = []
                agent.on = {"freeze": lambda: os.kill(pid[0], 9)}
                process = subprocess.Popen(
                    [TOOL, "--scratch", self.dir, "--agent", agent.path, "qmp:" + vm.monitor],
                    env=vm.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    preexec_fn=lib.die_with_us)
                pid.append(process.pid)
                process.wait(lib.PATIENCE)
                self.assertTrue(agent.frozen)
                agent.on = {}
                if recover:
                    self.assertIn("thawed the guest", vm.recover(monitor=other))
                else:
                    vm.begin(monitor=other).finish("abort")
                self.assertFalse(agent.frozen)
                self.assertEqual(vm.leftovers(), [])
                self.assertEqual(vm.recover(), "")

    def test_another_state_directory(self):
        """It does not show whether the other daemon is running, so the mount is refused."""
        vm, other = self.vm(*UUID)
        before = {n: bytes(d.model) for n, d in vm.disks.items()}
        snapshot = vm.begin()
        state, vm.state = vm.state, self.mkdir("elsewhere")
        with self.assertRaisesRegex(Refused, f"another state directory .*{state}/1f0c.* "
                                    "FLEECEFS_STATE_DIR"):
            vm.begin(monitor=other)
        self.assertEqual([f for f in os.listdir(vm.state)], [])
        vm.state = state
        self.check_held(vm, snapshot, before)
        snapshot.kill()
        self.assertNotEqual(vm.recover(monitor=other), "")
        self.assertEqual(vm.leftovers(), [])

    def test_all_at_once(self):
        """One of them gets the VM and keeps it to its end."""
        vm, other = self.vm()
        got = 0
        for _ in range(8):
            before = {n: bytes(d.model) for n, d in vm.disks.items()}
            begun, refused = [], []
            both = threading.Barrier(3)

            def begin(monitor):
                both.wait()
                try:
                    begun.append(vm.begin(monitor=monitor))
                except Refused as error:
                    refused.append(str(error))
                both.wait()
                both.wait() # children of a thread are killed when it ends

            threads = [threading.Thread(target=begin, args=(m,)) for m in (vm.monitor, other)]
            for thread in threads:
                thread.start()
            both.wait()
            both.wait()
            self.assertEqual(len(begun), 1, refused)
            self.assertRegex(refused[0], "another fleecefs uses this VM")
            self.check_held(vm, begun[0], before)
            begun[0].finish("commit")
            self.assertEqual(vm.leftovers(), [])
            both.wait()
            for thread in threads:
                thread.join()
            got += begun[0].info["disks"][0].get("base") is not None
        self.assertEqual(got, 7)


if __name__ == "__main__":
    lib.main()
