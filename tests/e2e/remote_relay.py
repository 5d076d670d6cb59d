#!/usr/bin/env python3
"""A VM on another host whose data the relay there confirms: a random read takes one round trip instead of
two. Whatever happens to the relay, reads return data of the snapshot, or EIO if the job has ended."""
import contextlib
import errno
import glob
import os
import signal
import socket
import threading
import time

import lib
import libvirt_mount
import qmp_confirm
import remote
import sshd
from libvirtd import Domain, Proxy
from vm import Disk

OLD = qmp_confirm.OLD


class Gate(sshd.Link):
    """A link that holds what the client sends after a call of hold(), and counts how many times it had to be
    let through until a function returned."""

    def __init__(self, *args):
        self.condition, self.held, self.closed, self.done = threading.Condition(), [], False, False
        super().__init__(*args)

    def _pass(self, a, b):
        if a is self.pairs[-1][0]:
            threading.Thread(target=self._hold, args=(a, b), daemon=True).start()
        else:
            super()._pass(a, b)

    def _hold(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(1 << 16):
                with self.condition:
                    if self.closed:
                        self.held.append((b, data))
                        self.condition.notify_all()
                    else:
                        b.sendall(data)
            b.shutdown(socket.SHUT_WR)

    def _let_through(self):
        for b, data in self.held:
            b.sendall(data)
        self.held.clear()

    def _run(self, function):
        function()
        with self.condition:
            self.done = True
            self.condition.notify_all()

    def flights(self, function):
        """Each flight is what has been sent since the last one, which an answer to that may have caused."""
        count, self.done, self.closed = 0, False, True
        thread = threading.Thread(target=self._run, args=(function,))
        thread.start()
        with self.condition:
            while not self.done:
                if not self.condition.wait_for(lambda: self.held or self.done, lib.PATIENCE):
                    raise AssertionError("nothing is sent, and nothing returns")
                count += bool(self.held)
                self._let_through()
            self.closed = False
        thread.join()
        return count


class RemoteRelay(remote.Base):
    with_monitor = libvirt_mount.LibvirtMount.with_monitor
    overwrite = libvirt_mount.LibvirtMount.overwrite
    test_job_ended_while_read = libvirt_mount.LibvirtMount.test_job_ended_while_read
    read_at_random = qmp_confirm.QmpConfirm.read_at_random
    read = staticmethod(qmp_confirm.QmpConfirm.read)

    def old(self):
        """Returns a VM whose disk has no holes, because reads of those need no server."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.write("vda", 0, lib.MIB, OLD)
        return vm

    def check_read(self, mount, length=4096):
        offset = self.rng.randrange((lib.MIB - length) // 4096 + 1) * 4096
        self.assertEqual(self.read(mount / "vda/disk.raw", offset, length), (bytes([OLD]) * length, 0))

    def uses_relay(self, mount):
        found = {d["relay"] for d in mount.json(".fleecefs/status.json")["exports"]}
        self.assertEqual(len(found), 1, mount.output())
        return found.pop()

    def relays(self, vm):
        """Returns the process ids of its relays."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
                if any(w.startswith(vm.scratch.encode()) and w.endswith(b"/relay") for w in words):
                    found.append(int(pid))
        return found

    def begin_relayed(self, vm, *options, **kwargs):
        mount = self.begin(vm, "-o", ",".join(["readahead=0", *options]), **kwargs)
        self.check_read(mount)
        self.assertTrue(self.uses_relay(mount), mount.output())
        return mount

    def await_true(self, condition):
        for _ in range(lib.PATIENCE * 100):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError("it takes too long")

    def check_nothing_left(self, vm, points):
        self.await_true(lambda: not self.relays(vm))
        super().check_nothing_left(vm, points)

    def finish(self, vm, mount, command="--abort"):
        if command == "--commit":
            self.assertEqual(self.fleecefs(command, "--force", mount.point).returncode, 0)
            mount.check_gone()
        else:
            self.end(vm, mount, command)
        self.check_nothing_left(vm, int(command == "--commit"))

    def least_flights(self, mount, gate, enough):
        """Returns the fewest flights of a read; others may contain messages of the daemon's own."""
        least = enough + 1
        for _ in range(100):
            least = min(least, gate.flights(lambda: self.check_read(mount)))
            if least <= enough:
                break
        return least

    def gate(self, name="gate"):
        gate = Gate(self, self.sshd.port)
        return gate, {"port": gate.port, "known": self.sshd.write_known(name, "host", gate.port)}

    def test_one_round_trip(self):
        vm = self.old()
        gate, link = self.gate()
        mount = self.begin_relayed(vm, **link)
        self.assertEqual(self.least_flights(mount, gate, 1), 1)
        self.finish(vm, mount, "--commit")

    def test_no_python(self):
        """Each read then takes two, and nothing is said unless it is asked for."""
        vm = self.old()
        folder = self.mkdir("bin")
        for where in ("/usr/local/bin", "/usr/sbin", "/usr/bin", "/bin"):
            for name in os.listdir(where):
                if not name.startswith("python") and not os.path.lexists(f"{folder}/{name}"):
                    os.symlink(f"{where}/{name}", f"{folder}/{name}")
        self.sshd = sshd.Sshd(config=f"ForceCommand PATH={folder} exec sh -s\n")
        gate, link = self.gate()
        for options, says in ((), r"\A((?!python3)[^\0])*\Z"), (("-v",), "two round trips: .*python3"):
            mount = self.begin(vm, "-o", "readahead=0", *options, **link)
            self.check_read(mount)
            self.assertFalse(self.uses_relay(mount))
            self.assertRegex(mount.output(), says)
            if options:
                self.assertEqual(self.least_flights(mount, gate, 1), 2)
            self.finish(vm, mount)

    def test_reads(self):
        """All ways of reading, in parallel, from two disks."""
        vm = self.domain("vda", "vdb")
        vm.scribble(self.rng, 3)
        for name in vm.disks:
            vm.write(name, 0, 4096, OLD)  # whatever it has now, not only holes
        expected = {n: bytes(d.model) for n, d in vm.disks.items()}
        mount = self.begin(vm)
        vm.scribble(self.rng, 2)
        wrong = []

        def read_some(name, seed):
            rng = lib.random.Random(seed)
            for _ in range(40):
                length = rng.choice((4096, 65536, 512 * 1024))
                offset = rng.randrange((lib.MIB - length) // 4096 + 1) * 4096
                if self.read(mount / f"{name}/disk.raw", offset, length) != \
                        (expected[name][offset:offset + length], 0):
                    wrong.append((name, offset, length))

        threads = [threading.Thread(target=read_some, args=(name, self.rng.random()))
                   for name in expected for _ in range(4)]
        for thread in threads:
            thread.start()
        for name, data in expected.items():
            self.assertTrue(mount.read(f"{name}/disk.raw", "rb") == data)
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertTrue(self.uses_relay(mount))
        self.finish(vm, mount, "--commit")

    # The job ends

    def begin_held(self, vm):
        """Returns the mount, an Event after which questions about the job are held, a Semaphore that counts
        these, and an Event that lets them pass. The daemon's own question, from time to time, is held
        first."""
        hold, held, release = threading.Event(), threading.Semaphore(0), threading.Event()

        def on_call(procedure):
            if procedure == Proxy.GET_JOB_STATS and hold.is_set():
                held.release()
                return release
            return Proxy.PASS

        proxy = Proxy(self, vm.libvirtd, on_call)
        source = self.source(vm).replace(vm.libvirtd.socket, proxy.path)
        mount = self.mount(source, env=self.environment_of(vm),
                           options=["-o", f"scratch={vm.scratch},readahead=0"])
        self.assertEqual(self.read(mount / "vda/disk.raw", 0, 4096), (bytes([OLD]) * 4096, 0))
        self.assertTrue(self.uses_relay(mount))
        hold.set()
        held.acquire()
        return mount, hold, held, release

    def read_meanwhile(self, mount):
        """Returns the thread, and the list that will have the result."""
        found = []
        reader = threading.Thread(target=lambda: found.append(
            self.read(mount / "vda/disk.raw", lib.MIB, 4096)))
        reader.start()
        return reader, found

    def test_job_ended_before_the_answer(self):
        """The data has arrived at the relay, and its question is held on its way to libvirt."""
        vm, qmp = self.with_monitor("vda")
        mount, hold, held, release = self.begin_held(vm)
        reader, found = self.read_meanwhile(mount)
        held.acquire()
        vm.virsh("domjobabort", vm.name)
        self.overwrite(qmp, "vda")
        self.assertEqual(len(found), 0, "data was returned before the answer")
        hold.clear()
        release.set()
        reader.join(lib.PATIENCE)
        self.assertEqual(found, [(None, errno.EIO)])
        self.finish(vm, mount)

    @staticmethod
    def connections(vm):
        """Returns how many QEMU's NBD server has."""
        [path] = glob.glob(f"{vm.scratch}/*/nbd")
        with open("/proc/net/unix", encoding="utf-8") as f:
            return sum(line.split()[5] == "03" and line.split()[7:] == [path] for line in f)

    def test_asks_before_connecting(self):
        """The loss of the relay may be the first sign of an end, and QEMU 7.2 hangs if a client negotiates
        while its server is stopped."""
        vm, _ = self.with_monitor("vda")
        mount, hold, held, release = self.begin_held(vm)
        self.assertEqual(self.connections(vm), 1)
        [relay] = self.relays(vm)
        self.kill(relay)
        reader, found = self.read_meanwhile(mount)
        self.await_true(lambda: self.connections(vm) == 0)
        for _ in range(20):
            time.sleep(0.01)
            self.assertEqual((self.connections(vm), found), (0, []))
        hold.clear()
        release.set()
        reader.join(lib.PATIENCE)
        self.assertEqual((self.connections(vm), found), (1, [(bytes([OLD]) * 4096, 0)]))
        self.finish(vm, mount)

    # The relay fails

    def test_killed_and_stopped(self):
        vm = self.old()
        for signum in (signal.SIGKILL, signal.SIGSTOP):
            mount = self.begin_relayed(vm, "timeout=3,reconnect=3")
            [relay] = self.relays(vm)
            os.kill(relay, signum)
            self.defer(self.kill, relay)
            for _ in range(3):
                self.check_read(mount)
            self.assertFalse(self.uses_relay(mount))
            self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
            self.kill(relay)  # which keeps its connection to QEMU while it is stopped
            self.finish(vm, mount)

    def test_killed_without_reconnecting(self):
        """The loss of the relay is not one of the server."""
        vm = self.old()
        mount = self.begin_relayed(vm, "reconnect=0")
        [relay] = self.relays(vm)
        self.kill(relay)
        self.check_read(mount)
        self.assertFalse(self.uses_relay(mount))
        self.finish(vm, mount)

    @staticmethod
    def kill(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def test_libvirtd_restarted(self):
        vm = self.old()
        mount = self.begin_relayed(vm)
        vm.libvirtd.kill()
        found = []
        reader = threading.Thread(target=lambda: found.append(self.read(mount / "vda/disk.raw", 0, 4096)))
        reader.start()
        vm.libvirtd.start()
        reader.join(lib.PATIENCE)
        self.assertEqual(found, [(bytes([OLD]) * 4096, 0)])
        self.check_read(mount)
        self.finish(vm, mount, "--commit")

    def test_ssh_killed(self):
        """Another relay is started, and the old one ends."""
        vm = self.old()
        mount = self.begin_relayed(vm)
        [before] = self.relays(vm)
        os.kill(remote.ssh_of(self.tmp)[0], signal.SIGKILL)
        self.check_read(mount)
        self.await_true(lambda: self.relays(vm) not in ([], [before]) and before not in self.relays(vm))
        self.await_true(lambda: glob.glob(f"{vm.scratch}/*/relay"))
        self.check_read(mount)
        self.finish(vm, mount)

    def test_daemon_killed(self):
        vm = self.old()
        mount = self.begin_relayed(vm)
        mount.kill()
        lib.run("umount", "-l", mount.point)
        self.await_end()
        self.await_true(lambda: not self.relays(vm))
        self.assertEqual(glob.glob(f"{vm.scratch}/*/relay"), [])
        self.assertIn("ended a backup job", self.recover(vm))
        self.check_nothing_left(vm, 0)


if __name__ == "__main__":
    lib.main()
