#!/usr/bin/env python3
"""Snapshots of domains when libvirtd, a job or the daemon ends at the wrong time."""
import signal
import subprocess
import threading

import lib
import vm
from libvirtd import Domain, Proxy
from vm import Disk, StuckClient


class Faults(lib.TestCase):
    def begin_committed(self):
        """Returns a domain and a committed backup of it."""
        domain = Domain(self, [Disk(self, "vda", lib.MIB)])
        domain.scribble(self.rng, 2)
        backup = bytes(domain.disks["vda"].model)
        domain.begin().finish("commit")
        return domain, backup

    def check_increment(self, domain, backup):
        """Checks that an increment on BACKUP has all changes since; returns the new backup."""
        expected = bytes(domain.disks["vda"].model)
        snapshot = domain.begin()
        self.assertIn("base", snapshot.disks["vda"])
        self.assertTrue(snapshot.backup("vda", backup) == expected)
        snapshot.finish("commit")
        self.assertEqual((domain.leftovers(), len(domain.checkpoints())), ([], 1))
        return expected

    def test_libvirtd_restarted(self):
        """The snapshot remains; it is read and committed through the new libvirtd."""
        domain, backup = self.begin_committed()
        domain.scribble(self.rng, 1)
        expected = bytes(domain.disks["vda"].model)
        snapshot = domain.begin()
        domain.scribble(self.rng, 1)
        domain.libvirtd.kill()
        self.assertTrue(snapshot.backup("vda", backup) == expected)
        domain.libvirtd.start()
        self.assertTrue(snapshot.backup("vda", backup) == expected)
        snapshot.finish("commit")
        self.assertEqual((domain.leftovers(), len(domain.checkpoints())), ([], 1))
        self.check_increment(domain, expected)

    def test_libvirtd_gone_while_begun(self):
        """The daemon and libvirtd are killed together; a new libvirtd has all that recovery needs."""
        domain, backup = self.begin_committed()
        domain.scribble(self.rng, 1)
        snapshot = domain.begin()
        domain.libvirtd.kill()
        snapshot.kill()
        domain.libvirtd.start()
        self.assertIn("ended a backup job", domain.recover())
        self.assertEqual((domain.recover(), domain.leftovers()), ("", []))
        self.check_increment(domain, backup)

    def test_job_ended_by_others(self):
        domain, backup = self.begin_committed()
        domain.scribble(self.rng, 1)
        snapshot = domain.begin()
        domain.virsh("domjobabort", domain.name)
        self.assertEqual(snapshot.line(), "lost: vda: its backup job in libvirt has ended")
        self.assertRegex(snapshot.ask("commit"), "failed: .*cannot commit: .* is lost")
        snapshot.finish("abort")
        self.check_increment(domain, backup)

    def test_client_that_reads_no_replies(self):
        """Ending the job would block QEMU, so it is kept as long as the client is connected."""
        domain, backup = self.begin_committed()
        domain.scribble(self.rng, 1)
        snapshot = domain.begin()
        client = StuckClient(self, snapshot)
        said = "another client is connected to the snapshot's NBD server.*job stays"
        self.assertRegex(snapshot.ask("commit"), f"^failed: .*{said}")
        self.assertRegex(snapshot.ask("abort"), f"^left: .*{said}")
        # The VM and libvirt continue, and another attempt has the same result.
        domain.scribble(self.rng, 1)
        with self.assertRaisesRegex(AssertionError, said):
            domain.recover()
        self.assertIsNotNone(domain.job())
        client.close()
        self.assertIn("ended a backup job", domain.recover())
        self.check_increment(domain, backup)

    def test_commit_without_an_answer(self):
        """The reply is lost although the checkpoint was made: the commit fails and is undone."""
        domain, backup = self.begin_committed()
        base = domain.checkpoints()
        domain.scribble(self.rng, 1)
        called = []

        def on_call(procedure):
            called.append(procedure)
            if procedure != Proxy.CREATE_CHECKPOINT:
                return Proxy.PASS
            proxy.refuse()
            return Proxy.PASS_AND_CUT

        proxy = Proxy(self, domain.libvirtd, on_call)
        snapshot = domain.begin("--timeout", "1", path=proxy.path)
        self.assertRegex(snapshot.ask("commit"), "^failed: .*counts as an abort")
        self.assertIn(Proxy.CREATE_CHECKPOINT, called)
        snapshot.kill()
        points = domain.checkpoints()
        self.assertEqual((len(points), points[:1]), (2, base))
        self.assertIn("fleecefs committed", domain.virsh(
            "checkpoint-dumpxml", domain.name, points[1], "--no-domain"))
        self.assertIn(f"deleted checkpoint {points[1]}, which was not committed", domain.recover())
        self.assertEqual((domain.recover(), domain.checkpoints()), ("", base))
        self.check_increment(domain, backup)

    def interrupt(self, domain, when, answered):
        """Signals a starting mount at its call number WHEN, which gets a reply only if ANSWERED. Returns
        whether the mount made that many calls."""
        process, started, never = None, threading.Event(), threading.Event()
        signalled = threading.Event()

        def on_call(procedure):
            if proxy.calls != when:
                return Proxy.PASS
            started.wait(lib.PATIENCE)
            process.send_signal(signal.SIGTERM)
            signalled.set()
            return Proxy.PASS if answered else never

        proxy = Proxy(self, domain.libvirtd, on_call)
        point = self.mkdir("mnt")
        self.defer(lib.attempt, "umount", "-l", point)
        process = subprocess.Popen(
            [*lib.FLEECEFS, "-f", "-o", f"scratch={domain.scratch},timeout=3", domain.source(proxy.path), point],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=domain.environment(),
            preexec_fn=lib.die_with_us)
        self.defer(process.kill)
        started.set()
        while not signalled.wait(0.1) and not lib.is_mounted(point):
            self.assertIsNone(process.poll())
        process.terminate()
        said = process.communicate(timeout=lib.PATIENCE)[1]
        never.set()
        proxy.close()
        if process.returncode != 0:
            # A call that changes the VM is not interrupted: the daemon waits for its reply.
            self.assertRegex(said, r"(?m)^fleecefs: [^\n]*(interrupted by a signal|"
                                   r"does not answer in time)" if not answered else
                             r"(?m)^fleecefs: [^\n]*interrupted by a signal")
        domain.recover()
        self.assertEqual(domain.leftovers(), [], said)
        return signalled.is_set()

    def test_interrupted(self):
        """A signal at any call of a starting mount, answered or not: everything is undone quickly."""
        domain, backup = self.begin_committed()
        base = domain.checkpoints()
        domain.scribble(self.rng, 1)
        for answered in (True, False):
            when = self.rng.randint(1, 11)
            while self.interrupt(domain, when, answered):
                self.assertEqual(domain.checkpoints(), base, (when, answered))
                when += 11
        self.check_increment(domain, backup)

    def cut(self, domain, limit, command):
        """Runs the tool and kills it before its call number LIMIT; returns the number of calls, the
        exit status and the output."""
        process = None
        ready = threading.Event()

        def on_call(procedure):
            if proxy.calls < limit:
                return Proxy.PASS
            ready.wait(lib.PATIENCE)
            process.kill()
            return Proxy.CUT

        proxy = Proxy(self, domain.libvirtd, on_call)
        process = subprocess.Popen(
            [vm.TOOL, "--scratch", domain.scratch, domain.source(proxy.path)], text=True,
            env=domain.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, preexec_fn=lib.die_with_us)
        ready.set()
        out, _ = process.communicate(command + "\n", lib.PATIENCE)
        proxy.close()
        return proxy.calls, process.returncode, out.splitlines()

    def test_killed_at_every_call(self):
        """Either the old or the new checkpoint is committed, and the next increment is complete."""
        for end in ("commit", "abort"):
            domain, backup = self.begin_committed()
            base = domain.checkpoints()
            # The first calls only connect and query.
            limit, status, out = 8, -9, []
            while status != 0:
                domain.scribble(self.rng, 1)
                held = bytes(domain.disks["vda"].model)
                limit, status, out = self.cut(domain, limit, end)
                what = f"{end} after {limit} calls: {out}"
                domain.recover()
                self.assertEqual(domain.leftovers(), [], what)
                self.assertEqual(domain.recover(), "", what)
                points = domain.checkpoints()
                self.assertEqual(len(points), 1, what)
                if points != base:
                    self.assertEqual((end, bool(out)), ("commit", True), what)
                    backup, base = held, points
                limit += 1
            self.assertEqual(out[-1], "ok")
            self.check_increment(domain, backup)
            print(f"{end}: {limit} calls", end=" ")


if __name__ == "__main__":
    lib.main()
