#!/usr/bin/env python3
"""A guest under libvirt: frozen briefly through its agent, and thawed whatever happens."""
import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading

import guest
import lib
from libvirtd import Domain, Proxy
from vm import Disk


class GuestDomain(guest.Guest, Domain):
    """A domain that runs Linux, with one filesystem on each of its DISKS."""

    mounted = "vda"  # one of the disks that the guest mounts

    def __init__(self, test, disks):
        self.prepare(test, disks)
        super().__init__(test, disks, devices="""<channel type='unix'>
            <target type='virtio' name='org.qemu.guest_agent.0'/></channel>""")
        self.boot()

    def prepare(self, test, disks):
        """Creates the filesystems; returns the XML from which the domain boots."""
        # QEMU's user may have no access to the build folder.
        kernel, initrd = (shutil.copy(file, test.dir) for file in guest.make_guest())
        guest.make_filesystems(test, disks)
        self.machine = f"""<memory unit='MiB'>256</memory><cpu mode='maximum'/>
            <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>
            <initrd>{initrd}</initrd><cmdline>{guest.COMMAND_LINE}</cmdline></os>"""

    def boot(self):
        """Starts the domain and waits until its agent is connected."""
        # Booting takes longer than subscribing to the event.
        self.virsh(f'resume "{self.name}"; event "{self.name}" --event agent-lifecycle '
                   f'--timeout {2 * lib.PATIENCE}', timeout=3 * lib.PATIENCE)
        self.run(f"test -d /mnt/{self.mounted}/lost+found")

    def agent(self, command, **args):
        """Calls the agent; retries while the guest is paused because of ENOSPC."""
        args = {k.replace("_", "-"): v for k, v in args.items()}
        while True:
            try:
                return json.loads(self.virsh(
                    "qemu-agent-command", self.name, "--timeout", "10",
                    json.dumps({"execute": command, "arguments": args})))["return"]
            except AssertionError as error:
                if "domain is not running" not in str(error) or \
                        self.virsh("domstate", self.name) == "shut off":
                    raise

    def mount_options(self):
        return ["-o", f"scratch={self.scratch}"]


class LibvirtGuest(guest.GuestTest, lib.TestCase):
    def setUp(self):
        lib.require("ddrescue")
        super().setUp()
        self.vm = GuestDomain(self, [Disk(self, "vda", guest.SIZE), Disk(self, "vdb", guest.SIZE)])

    def test_backups_of_a_guest_at_work(self):
        self.back_up_at_work()

    def status(self):
        return self.vm.agent("guest-fsfreeze-status")

    def check_untouched(self):
        self.check_thawed()
        self.assertEqual((self.vm.leftovers(), self.vm.checkpoints()), ([], []))

    def start(self, on_call, *options):
        """Starts a mount through a Proxy with ON_CALL(process, procedure)."""
        ready = threading.Event()

        def wait_and_call(procedure):
            ready.wait(lib.PATIENCE)
            return on_call(process, procedure)

        proxy = Proxy(self, self.vm.libvirtd, wait_and_call)
        self.point, self.pidfile = self.mkdir("mnt"), self.path("pid")
        process = subprocess.Popen(
            [*lib.FLEECEFS, "-f", "-P", self.pidfile, "-o", "freeze_timeout=60", *self.vm.mount_options(),
             *options, self.vm.source(proxy.path), self.point], env=self.vm.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lib.die_with_us)
        ready.set()
        return process

    def check_failed(self, process):
        """Waits for PROCESS to fail; returns its stderr."""
        said = process.communicate(timeout=2 * lib.PATIENCE)[1]
        self.assertEqual(process.returncode, 1, said)
        self.assertRegex(said, r"\Afleecefs: [^\n]+\n\Z")
        return said

    def recover(self):
        return lib.run(*lib.FLEECEFS, "--recover", *self.vm.mount_options(), self.vm.source(),
                       env=self.vm.environment())

    def test_killed_while_frozen(self):
        for procedure in (Proxy.FREEZE, Proxy.BEGIN_BACKUP, Proxy.THAW):
            for recover in (True, False):
                def on_call(process, called):
                    if called == procedure:
                        process.kill()
                        process.wait()
                    return Proxy.PASS if called != Proxy.THAW else Proxy.CUT

                process = self.start(on_call)
                process.communicate(timeout=lib.PATIENCE)
                if procedure != Proxy.FREEZE: # which may not have reached the guest
                    self.assertEqual(self.status(), "frozen")
                if recover:
                    self.assertIn("thawed the guest", self.recover())
                else:
                    self.end(self.begin(), "--abort")
                self.check_untouched()

    def test_connection_lost_while_frozen(self):
        """The guest is thawed through a new connection."""
        for procedure in (Proxy.FREEZE, Proxy.BEGIN_BACKUP, Proxy.THAW):
            for fate in (Proxy.CUT, Proxy.PASS_AND_CUT):
                to_come = [procedure]

                def on_call(process, called):
                    if called not in to_come:
                        return Proxy.PASS
                    to_come.clear()
                    return fate

                process = self.start(on_call)
                if procedure != Proxy.THAW:
                    self.check_failed(process)
                else:
                    lib.wait_for_file(self.pidfile, process)
                    self.check_thawed()
                    self.assertEqual(self.fleecefs("--abort", self.point).returncode, 0)
                    process.communicate(timeout=lib.PATIENCE)
                self.check_untouched()

    def test_snapshot_fails(self):
        """QEMU has no access to the scratch directory, which shows only when the guest is frozen."""
        private = self.mkdir("private")
        os.chmod(private, 0o700)
        os.mkdir(f"{private}/scratch")
        calls = []

        def on_call(process, called):
            calls.append(called)
            return Proxy.PASS

        said = self.check_failed(self.start(on_call, "-o", f"scratch={private}/scratch"))
        self.assertIn("cannot take the snapshot", said)
        self.assertIn("-o scratch=DIR", said)
        self.assertIn(Proxy.FREEZE, calls)
        self.check_untouched()
        self.assertEqual(os.listdir(f"{private}/scratch"), [])

    def test_frozen_for_too_long(self):
        """The guest is thawed on timeout, whatever delays the snapshot."""
        for optional in (False, True):
            go_on = threading.Event()
            thaws = threading.Event()

            def on_call(process, called):
                if called == Proxy.THAW:
                    thaws.set()
                return go_on if called == Proxy.BEGIN_BACKUP else Proxy.PASS

            options = ["-o", "freeze_timeout=1", *(["-o", "agent_optional"] if optional else [])]
            process = self.start(on_call, *options)
            self.assertTrue(thaws.wait(lib.PATIENCE))
            self.check_thawed()
            go_on.set()
            if optional:
                lib.wait_for_file(self.pidfile, process)
                self.assertEqual(self.fleecefs("--abort", self.point).returncode, 0)
                said = process.communicate(timeout=lib.PATIENCE)[1]
            else:
                said = self.check_failed(process)
            self.assertIn("did not stay frozen until the snapshot was taken", said)
            self.check_untouched()

    def test_paused(self):
        """The daemon does not wait for the agent of a paused guest."""
        self.vm.virsh("suspend", self.vm.name)
        said = self.check_failed(self.start(lambda *_: Proxy.PASS))
        self.assertIn("the guest is paused and cannot be frozen", said)
        mount = self.mount(self.vm.source(), env=self.vm.environment(), options=[
            *self.vm.mount_options(), "-o", "agent_optional"])
        self.assertIn("only crash-consistent", mount.output())
        self.assertEqual(self.fleecefs("--abort", mount.point).returncode, 0)
        mount.check_gone()
        # The guest stays paused.
        self.assertEqual(self.vm.virsh("domstate", self.vm.name), "paused")
        self.vm.virsh("resume", self.vm.name)
        self.check_untouched()

    def test_agent_does_not_answer(self):
        options = ["-o", "freeze_timeout=1"]
        with contextlib.suppress(AssertionError): # the agent may be stopped before it replies
            self.vm.begin_script("kill -STOP $(pidof qemu-ga)")
        ping = ["qemu-agent-command", self.vm.name, "--timeout", "1", '{"execute": "guest-ping"}']
        with contextlib.suppress(AssertionError):
            while True:
                self.vm.virsh(*ping)
        said = self.check_failed(self.start(lambda *_: Proxy.PASS, *options))
        self.assertIn("the guest agent does not answer", said)
        self.assertEqual((self.vm.leftovers(), self.vm.checkpoints()), ([], []))
        mount = self.mount(self.vm.source(), env=self.vm.environment(), options=[
            *self.vm.mount_options(), *options, "-o", "agent_optional"])
        self.assertIn("only crash-consistent", mount.output())
        self.assertEqual(self.fleecefs("--abort", mount.point).returncode, 0)
        mount.check_gone()
        self.assertEqual((self.vm.leftovers(), self.vm.checkpoints()), ([], []))

    def test_scratch_full(self):
        """The guest continues, reads fail, the commit is refused, and the space is freed."""
        vm, small = self.vm, self.vm.libvirtd.small
        write = "dd if=/dev/urandom of=/mnt/vda/big bs=1M count=40 conv=notrunc,fsync 2>/dev/null"
        vm.run(write)
        mount = self.begin("-o", f"scratch={small}")
        vm.run(write)
        while any(d["state"] == "ok" for d in mount.json(".fleecefs/status.json")["exports"]):
            vm.run(write)
        for name in vm.disks:
            self.assert_errno(errno.EIO, os.stat, mount / f"{name}/disk.raw")
        self.assertRegex(self.fleecefs("--status", mount.point).stdout,
                         "failure +(the scratch directory is|no space for a write)")
        self.assert_refused("--commit", "--force", mount.point, says=["is lost"])
        # The guest's own write succeeds, too: at most it was paused.
        vm.run(write)
        self.assertEqual(vm.virsh("domstate", vm.name), "running")
        self.end(mount, "--abort")
        self.check_untouched()
        self.assertEqual(os.listdir(small), [])


if __name__ == "__main__":
    lib.main()
