#!/usr/bin/env python3
"""A VM of libvirt on another host, through ssh: mount, back up, commit and abort; broken
connections; wrong hosts and keys."""
import contextlib
import errno
import glob
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

import lib
import qmp_mount
import sshd
from libvirtd import Domain
from vm import Disk

BACKUP, RESTORE = (f"{lib.TOP}/contrib/fleecefs-{n}" for n in ("backup", "restore"))
KILLS = int(os.environ.get("KILLS") or 2)


def ssh_of(folder):
    """Returns the process ids of the ssh whose sockets are in FOLDER and of its parent, which restarts it."""
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                try:
                    with open(f"/proc/{entry.name}/cmdline", "rb") as f:
                        words = f.read().split(b"\0")
                    with open(f"/proc/{entry.name}/stat") as f:
                        parent = int(f.read().rpartition(")")[2].split()[1])
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if b"-oControlMaster=yes" in words and any(w.startswith(os.fsencode(folder)) for w in words):
                    return int(entry.name), parent
    return None


class Base(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.sshd = sshd.shared()
        # TMPDIR of the mount: shows its sockets, and whether any are left.
        self.tmp = tempfile.mkdtemp(prefix="fleecefs-", dir="/tmp")
        self.defer(os.rmdir, self.tmp)
        self.point = self.mkdir("mnt")

    def domain(self, *names, **kwargs):
        return Domain(self, [Disk(self, n, lib.MIB) for n in names or ["vda"]], **kwargs)

    def source(self, vm, **kwargs):
        return f"libvirt:{vm.name}?connect={self.sshd.uri(vm.libvirtd.socket, **kwargs)}"

    def environment_of(self, vm):
        return {**vm.environment(), "TMPDIR": self.tmp}

    def begin(self, vm, *options, **kwargs):
        return self.mount(self.source(vm, **kwargs), env=self.environment_of(vm),
                          options=["-o", "scratch=" + vm.scratch, *options])

    def end(self, vm, mount, command, status=0, says=r"\A\Z"):
        done = self.fleecefs(command, mount.point)
        self.assertRegex(done.stderr, says)
        self.assertEqual(done.returncode, status)
        mount.check_gone()

    def recover(self, vm):
        return lib.run(*lib.FLEECEFS, "--recover", "--scratch=" + vm.scratch, self.source(vm),
                       env=self.environment_of(vm))

    def check_nothing_left(self, vm, points):
        self.assertEqual((vm.leftovers(), len(vm.checkpoints()), os.listdir(self.tmp)),
                         ([], points, []))
        self.assertEqual(ssh_of(self.tmp), None)

    def fails(self, source, *says, status=1):
        """Checks that mount and --recover fail at once, with the same message and without a prompt."""
        env = {**os.environ, "TMPDIR": self.tmp}
        for words in ([source, self.point], ["--recover", source]):
            done = subprocess.run([*lib.FLEECEFS, *words], env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=lib.PATIENCE,
                                  start_new_session=True)
            self.assertEqual((done.returncode, done.stdout), (status, ""))
            self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")
            for word in says:
                self.assertIn(word, done.stderr)
        self.assertEqual(os.listdir(self.tmp), [])

    def new_ssh(self, old):
        """Waits for an ssh process other than OLD."""
        for _ in range(lib.PATIENCE * 100):
            if (found := ssh_of(self.tmp)) and found[0] != old:
                return found
            time.sleep(0.01)
        raise AssertionError("no other ssh was started")

    def await_end(self):
        """Waits until all processes and files of the mount on this host are gone."""
        for _ in range(lib.PATIENCE * 100):
            if not os.listdir(self.tmp):
                return
            time.sleep(0.01)
        raise AssertionError(f"left here: {os.listdir(self.tmp)}")


class Remote(Base):
    # Backups

    def test_full_and_increments(self):
        vm = self.domain("vda", "vdb")
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        for run, command in enumerate(("--commit", "--abort", "--commit")):
            vm.scribble(self.rng, 2)
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            mount = self.begin(vm)
            self.assertEqual(mount.folders(), ["vda", "vdb"])
            vm.scribble(self.rng, 1)
            for name in chains:
                self.assertEqual(mount.json(f"{name}/info.json")["mode"],
                                 "incremental" if run > 0 else "full")
            qmp_mount.back_up(mount, chains, expected, command == "--commit")
            self.end(vm, mount, command)
            self.check_nothing_left(vm, 1)

    def test_increment_on_a_backup_from_there(self):
        """The disk has the same identity, locally and remotely."""
        vm = self.domain()
        vm.scribble(self.rng, 1)
        for source, mode in ((vm.source(), "full"), (self.source(vm), "incremental"),
                             (vm.source(), "incremental")):
            mount = self.mount(source, env=self.environment_of(vm),
                               options=["-o", "scratch=" + vm.scratch])
            info = mount.json("vda/info.json")
            self.assertEqual(info["mode"], mode, info)
            self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
            mount.check_gone()
        self.check_nothing_left(vm, 1)

    def test_slow_link(self):
        """With a latency of 10 ms each way."""
        link = sshd.Link(self, self.sshd.port, 0.01)
        vm = self.domain()
        vm.scribble(self.rng, 2)
        expected = bytes(vm.disks["vda"].model)
        mount = self.begin(vm, port=link.port,
                           known=self.sshd.write_known("slow", "host", link.port))
        vm.scribble(self.rng, 2)
        self.assertTrue(mount.read("vda/disk.raw", "rb") == expected)
        self.end(vm, mount, "--commit")
        self.check_nothing_left(vm, 1)

    def test_all_domains(self):
        """--all with two hosts, one of which is unreachable."""
        vm = self.domain("vda", "vdb")
        uris = [f"qemu+ssh://root@127.0.0.1:{port}/system?command={self.sshd.command}&"
                f"socket={vm.libvirtd.socket}&netcat={self.sshd.netcat}&no_tty=1" for port in (1, self.sshd.port)]
        to, env = self.mkdir("backups"), {**self.environment_of(vm), **self.environment()}
        for mode in ("full", "since"):
            vm.scribble(self.rng, 2)
            done = lib.attempt(BACKUP, "--all", *(f"--connect={uri}" for uri in uris), "-o",
                               "scratch=" + vm.scratch, "qcow2", to, env=env,
                               timeout=2 * lib.PATIENCE)
            self.assertRegex(done.stderr, f"(?s)FAILED: the domains of libvirt cannot be listed.*"
                                          f"{vm.name}: [^ ]+: vda {mode}.*{vm.name}: [^ ]+: done")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.check_nothing_left(vm, 1)
        out, plain = self.path("restored"), self.path("plain")
        lib.run(RESTORE, f"{to}/{vm.name}", "-d", "vda", out)
        lib.run("qemu-img", "convert", "-O", "raw", out, plain)
        with open(plain, "rb") as f:
            self.assertTrue(f.read() == vm.disks["vda"].model)

    # Connections that break

    def test_ssh_killed(self):
        """Reads are correct or wait for another ssh, in every state of the mount."""
        vm = self.domain("vda", "vdb")
        vm.scribble(self.rng, 3)
        for round_ in range(KILLS):
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            mount = self.begin(vm, "-o", "readahead=0")
            vm.scribble(self.rng, 2)
            ssh, keeper = ssh_of(self.tmp)
            # Loads the maps first: open may fail while they are missing, but not later.
            for name in expected:
                self.assertTrue(lib.read_direct(mount / f"{name}/disk.raw") == expected[name][:4096])
            wrong, stop = [], threading.Event()

            def read_all(name):
                rng = random.Random(f"{lib.SEED}{name}")
                while not stop.is_set():
                    offset = rng.randrange(len(expected[name]) // 4096) * 4096
                    if lib.read_direct(mount / f"{name}/disk.raw", 4096, offset) != \
                            expected[name][offset:offset + 4096]:
                        wrong.append((name, offset))

            readers = [threading.Thread(target=read_all, args=[n]) for n in expected]
            for reader in readers:
                reader.start()
            os.kill(ssh, signal.SIGKILL)
            ssh, same = self.new_ssh(ssh)
            self.assertEqual(same, keeper)
            for name in expected:
                self.assertTrue(qmp_mount.QmpMount.read_direct(mount / f"{name}/disk.raw") ==
                                expected[name])
            stop.set()
            for reader in readers:
                reader.join(lib.PATIENCE)
            self.assertEqual(wrong, [])
            # Again just before the end, which the daemon has not noticed yet.
            if round_ % 2:
                os.kill(ssh, signal.SIGKILL)
            self.end(vm, mount, "--abort" if round_ % 4 == 2 else "--commit", says="(?s).*")
            self.check_nothing_left(vm, 1)

    def test_ssh_killed_at_once(self):
        """Killed repeatedly while a snapshot begins: it fails or succeeds, and nothing is left."""
        vm = self.domain()
        for _ in range(KILLS):
            process = subprocess.Popen(
                [*lib.FLEECEFS, "-o", "scratch=" + vm.scratch, self.source(vm), self.point],
                env=self.environment_of(vm), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True)
            found = None
            while found is None and process.poll() is None:
                found = ssh_of(self.tmp)
            if found:
                time.sleep(self.rng.random())  # at a random moment
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found[0], signal.SIGKILL)
            said = process.communicate(timeout=2 * lib.PATIENCE)[1]
            if process.returncode == 0:
                self.assertEqual(self.fleecefs("--abort", self.point).returncode, 0)
            else:
                self.assertIn(vm.name, said)
            self.await_end()
            self.recover(vm)
            self.check_nothing_left(vm, 0)

    def test_daemon_killed(self):
        """ssh ends with it; the next mount or --recover cleans up on the other host."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        for put_back in (lambda: self.assertIn("ended a backup job", self.recover(vm)),
                         lambda: self.begin(vm)):
            mount = self.begin(vm)
            mount.kill()
            lib.run("umount", "-l", mount.point)
            self.await_end()
            self.assertEqual(len(os.listdir(vm.scratch)), 1)
            mount = put_back()
            if mount:
                self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
                self.end(vm, mount, "--abort")
            self.check_nothing_left(vm, 0)

    def test_lost_for_good(self):
        """Reads and abort fail; --recover completes the abort later."""
        link = sshd.Link(self, self.sshd.port)
        vm = self.domain()
        vm.scribble(self.rng, 2)
        mount = self.begin(vm, "-o", "timeout=10,reconnect=3", port=link.port,
                           known=self.sshd.write_known("link", "host", link.port))
        link.end()
        self.assert_errno(errno.EIO, qmp_mount.QmpMount.read_direct, mount / "vda/disk.raw")
        self.end(vm, mount, "--abort", 3, "fleecefs --recover")
        self.assertEqual(os.listdir(self.tmp), [])
        self.assertIn("ended a backup job", self.recover(vm))
        self.check_nothing_left(vm, 0)

    def test_ssh_stopped(self):
        """It neither ends nor responds. It is resumed, or ends with the mount."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        vm.write("vda", lib.MIB // 2, 65536, 7)  # zeros are read without the server
        mount = self.begin(vm, "-o", "readahead=0,timeout=10,reconnect=3")
        path, expected = mount / "vda/disk.raw", bytes(vm.disks["vda"].model)
        ssh = ssh_of(self.tmp)[0]
        self.assertTrue(lib.read_direct(path) == expected[:4096])
        os.kill(ssh, signal.SIGSTOP)
        try:
            found = lib.read_direct(path, 4096, lib.MIB // 2)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
            self.end(vm, mount, "--abort", 3, "fleecefs --recover")
            self.assertIn("ended a backup job", self.recover(vm))
        else:
            # The daemon noticed its silence and started another one.
            self.assertTrue(found == expected[lib.MIB // 2:][:4096])
            self.assertNotEqual(ssh_of(self.tmp)[0], ssh)
            self.end(vm, mount, "--abort")
        self.assertEqual((os.listdir(self.tmp), ssh_of(self.tmp)), ([], None))
        self.check_nothing_left(vm, 0)

    def test_another_client(self):
        """A client on the other host that reads no replies would block the VM."""
        vm = self.domain()
        mount = self.begin(vm)
        [nbd] = glob.glob(f"{vm.scratch}/fleecefs-*/nbd")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(nbd)
            self.assert_refused("--commit", "--force", mount.point,
                                says=["another client is connected", nbd])
        self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
        mount.check_gone()
        self.check_nothing_left(vm, 1)

    # Messages

    def test_wrong_words(self):
        vm = self.domain()
        changed = self.sshd.write_known("changed", "stranger", self.sshd.port)
        nobody = self.sshd.write_known("nobody", "host", 1)
        self.fails(self.source(vm, known=changed), "cannot reach 127.0.0.1 by ssh",
                   "REMOTE HOST IDENTIFICATION HAS CHANGED", f"{changed}:1",
                   "Host key verification failed")
        self.fails(self.source(vm, known=nobody), "Host key verification failed")
        self.fails(self.source(vm, key="stranger"), "Permission denied (publickey)")
        self.fails(self.source(vm, port=1), "Connection refused")
        self.fails(f"libvirt:x?connect={self.sshd.uri('/nowhere')}", "cannot connect to libvirt",
                   "on 127.0.0.1: no socket /nowhere")
        for scheme in ("qemu+libssh", "qemu+libssh2"):
            self.fails(f"libvirt:x?connect={scheme}://127.0.0.1/system", scheme, "qemu+ssh://",
                       status=2)
        source = self.source(vm)
        self.fails(source + "&no_such=1", "parameter no_such", status=2)
        self.fails(source.replace("root@", "root:secret@"), "a password", status=2)
        self.fails(source.replace("/system", "/embed"), "/embed", "/session", status=2)
        self.assert_refused("-o", "scratch=" + self.path("a b"), source, self.point,
                            status=2, says=["scratch directory", "a b", "spaces"])
        self.assert_refused("-o", "scratch=/nowhere", source, self.point,
                            says=["scratch directory /nowhere", "on 127.0.0.1", "No such file"])
        self.assert_refused("-o", "scratch_encrypt", source, self.point, status=2,
                            says=["scratch_encrypt applies to VMs on this host", "-o scratch=DIR"])


if __name__ == "__main__":
    lib.main()
