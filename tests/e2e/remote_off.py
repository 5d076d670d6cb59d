#!/usr/bin/env python3
"""VMs of libvirt that are shut off on another host, through ssh: their images are shown like those of VMs
on this host, and nothing is left there."""
import errno
import os
import re
import shutil
import signal
import subprocess
import time

import disks
import lib
import qmp_mount
import remote
import sshd
from libvirtd import Domain
from vm import Disk

DAEMON = "qemu-storage-daemon"
# Members of info.json that depend on how and when a disk is reached.
OWN = {"source", "export", "vm", "snapshot", "point_in_time"}


def daemons(folder):
    """Returns the process ids of the storage daemons that run in folders below FOLDER."""
    found = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                try:
                    with open(f"/proc/{entry.name}/cmdline", "rb") as f:
                        program = f.read().split(b"\0")[0].decode()
                    if program == DAEMON and os.readlink(f"/proc/{entry.name}/cwd").startswith(folder):
                        found.append(int(entry.name))
                except (FileNotFoundError, ProcessLookupError):
                    continue
    return found


class RemoteOff(remote.Base):
    def off(self, *names, full=True, raw=()):
        """Returns a VM that is shut off and, if FULL, has changes since a full backup. RAW: disks whose
        images are raw."""
        vm = Domain(self, [Disk(self, n, lib.MIB, kind="raw" if n in raw else "qcow2")
                           for n in names or ["vda"]])
        vm.scribble(self.rng, 2)
        if full:
            self.forced(self.begin(vm))
            vm.scribble(self.rng, 2)
        for name in vm.disks:
            vm.write(name, lib.MIB - 4096, 4096, 1)  # zeros are read without the server
        vm.quit()
        return vm

    def forced(self, mount):
        self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
        mount.check_gone()

    def check_nothing_left(self, vm, points):
        super().check_nothing_left(vm, points)
        self.assertEqual(daemons(vm.scratch), [])

    def await_nothing_there(self, vm):
        for _ in range(lib.PATIENCE * 100):
            if not os.listdir(vm.scratch):
                self.assertEqual(daemons(vm.scratch), [])
                return
            time.sleep(0.01)
        raise AssertionError(f"left there: {os.listdir(vm.scratch)}")

    def refused(self, vm, *says):
        done = lib.attempt(*lib.FLEECEFS, "-o", "scratch=" + vm.scratch, self.source(vm), self.point,
                           env=self.environment_of(vm))
        self.assertRegex(done.stderr, r"\A(fleecefs: left out: [^\n]+\n)?fleecefs: [^\n]+\n\Z")
        for word in says:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.returncode, 1)
        self.assertEqual((os.listdir(vm.scratch), daemons(vm.scratch), os.listdir(self.tmp)),
                         ([], [], []))

    def tree(self, mount):
        """Returns the files of MOUNT: type, size and contents or, of an info.json, its members."""
        found = {}
        for name in mount.files():
            if name.endswith("/info.json"):
                info = mount.json(name)
                # A full backup begins a chain.
                own = OWN | {"disk_id"} if info["mode"] == "full" else OWN
                found[name] = {k: v for k, v in info.items() if k not in own}
            elif not name.startswith(".fleecefs/"):
                st = os.stat(mount / name)
                found[name] = (st.st_mode, st.st_size, st.st_blocks, mount.read(name, "rb"))
        return found

    # What is shown

    def test_as_on_this_host(self):
        """The same tree and messages as of the same VM on this host."""
        vm = self.off("vda", "vdb", "vdc", raw=["vdb"])
        shown, said = [], []
        for source in (vm.source(), self.source(vm)):
            mount = self.mount(source, env=self.environment_of(vm),
                               options=["-o", "scratch=" + vm.scratch])
            info = mount.json("vda/info.json")
            self.assertEqual((info["mode"], "restore_point" in info), ("incremental", False))
            self.assertEqual(mount.json("vdb/info.json")["mode"], "full")
            shown.append(self.tree(mount))
            # The times of pieces are noted for each source.
            said.append([l for l in mount.output().splitlines() if "files in split/" not in l])
            for name, disk in vm.disks.items():
                self.assertTrue(shown[-1][name + "/disk.raw"][-1] == disk.model)
            self.fleecefs("--abort", mount.point)
            mount.check_gone()
        self.assertEqual(list(shown[0]), list(shown[1]))
        for name, found in shown[0].items():
            self.assertEqual(found, shown[1][name], name)
        self.assertEqual(said[0], said[1])
        self.assertIn("the VM is shut off: its images are shown", "".join(said[0]))
        self.check_nothing_left(vm, 1)

    def test_pieces(self):
        """Pieces keep their times while the images stay the same, so that rsync reads nothing."""
        vm = Domain(self, [Disk(self, "vda", 4 * lib.MIB)])
        vm.write("vda", 0, 4 * lib.MIB, 1)
        vm.write("vda", 2 * lib.MIB, 4096, 2)
        to, sent = self.mkdir("copy"), []
        for off in (False, True, True, True):
            if off and not sent[1:]:
                vm.write("vda", lib.MIB, 4096, 3)
                vm.quit()
            mount = self.begin(vm, "-o", "split=1M")
            said = lib.run("rsync", "--archive", "--inplace", "--stats", f"{mount.point}/vda/split/", to)
            sent.append(int(re.search(r"regular files transferred: (\d+)", said)[1]))
            self.end(vm, mount, "--commit" if not off else "--abort", says="(?s).*")
        self.assertEqual(sent, [4, 1, 0, 0])
        joined = self.path("joined")
        lib.run("sh", "-c", f"cat {to}/* >{joined}")
        with open(joined, "rb") as f:
            self.assertTrue(f.read() == vm.disks["vda"].model)
        self.check_nothing_left(vm, 1)

    def test_increments(self):
        """Backups while the VM runs and while it is shut off form one chain."""
        vm = self.domain("vda", "vdb")
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        for run, command in enumerate(("--commit", "--abort", "--commit", "--commit")):
            vm.scribble(self.rng, 2)
            if run in (1, 2):
                vm.quit()
            mount = self.begin(vm)
            for name in chains:
                self.assertEqual(mount.json(f"{name}/info.json")["mode"],
                                 "incremental" if run else "full")
            qmp_mount.back_up(mount, chains, {n: bytes(d.model) for n, d in vm.disks.items()},
                              run == 0)
            self.end(vm, mount, command)
            self.check_nothing_left(vm, 1)
            if run in (1, 2):
                vm.start()

    def test_chain(self):
        """Bitmaps of two disks continue in overlays; both disks are served by one storage daemon."""
        vm = self.domain("vda", "vdb")
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        models = lambda: {n: bytes(d.model) for n, d in vm.disks.items()}
        vm.write("vda", 0, 65536, 1)
        mount = self.begin(vm)
        qmp_mount.back_up(mount, chains, models(), True)
        self.end(vm, mount, "--commit")
        vm.write("vda", 256 << 10, 65536, 2)
        vm.write("vdb", 128 << 10, 65536, 3)
        vm.virsh("snapshot-create-as", vm.name, "s1", "--disk-only", "--diskspec",
                 f"vda,file={self.path('a')}", "--diskspec", f"vdb,file={self.path('b')}")
        self.defer(lib.attempt, "virsh", "--connect", vm.libvirtd.uri(), "snapshot-delete", vm.uuid,
                   "s1", "--metadata")
        vm.write("vda", 512 << 10, 65536, 4)
        vm.quit()
        mount = self.begin(vm)
        for name, dirty in (("vda", 2 * 65536), ("vdb", 65536)):
            info = mount.json(f"{name}/info.json")
            self.assertEqual(info["mode"], "incremental", info)
            self.assertEqual([c["dirty_bytes"] for c in info["contexts"] if c.get("bitmap") == "last"],
                             [dirty])
        qmp_mount.back_up(mount, chains, models(), False)
        self.end(vm, mount, "--abort")
        self.check_nothing_left(vm, 1)

    def test_locked(self):
        """The VM cannot be started while its images are shown, nor shown while another program writes."""
        vm = self.off()
        mount = self.begin(vm)
        with self.assertRaisesRegex(AssertionError, "lock"):
            vm.start()
        self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
        self.end(vm, mount, "--abort")
        self.qemu_nbd(vm.disks["vda"].image, "-f", "qcow2")
        self.refused(vm, "disk vda, on 127.0.0.1", "is in use")

    # What is refused

    def test_refused(self):
        vm = self.off("vda", "vdb")
        image, copy = vm.disks["vdb"].image, self.path("copy")
        shutil.copy2(image, copy)
        lib.run("qemu-img", "convert", "-O", "qcow2", copy, image)
        os.truncate(image, os.path.getsize(image) - 65536)
        self.refused(vm, "disk vdb, on 127.0.0.1: cannot open " + image, "it is truncated")
        os.unlink(image)
        self.refused(vm, "vdb", "No such file")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", copy, "-F", "qcow2", image)
        with open(image, "r+b") as f:
            # As older versions of QEMU do: the extension with the format of the backing file is unknown.
            f.seek(f.read(4096).index(bytes.fromhex("e2792aca")))
            f.write(b"none")
        self.refused(vm, "disk vdb", "the format of its backing file is not recorded")
        os.unlink(image)
        # It measures this host's speed, which fails at times.
        while lib.attempt("qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o",
                          "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", image,
                          "1M").returncode != 0:
            pass
        self.refused(vm, "disk vdb", "it is encrypted")
        os.unlink(image)
        shutil.copy2(copy, image)
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), ["vda", "vdb"])
        self.end(vm, mount, "--abort")
        self.check_nothing_left(vm, 1)

    def test_no_storage_daemon(self):
        tools = self.mkdir("tools")
        os.chmod(self.dir, 0o755)
        for folder in ("/usr/sbin", "/usr/bin"):
            for name in os.listdir(folder):
                if name != DAEMON and not os.path.lexists(f"{tools}/{name}"):
                    os.symlink(f"{folder}/{name}", f"{tools}/{name}")
        vm = self.off(full=False)
        self.sshd = sshd.Sshd(config=f"SetEnv PATH={tools}\n")
        self.refused(vm, "on 127.0.0.1: qemu-storage-daemon is not installed there",
                     "qemu-system-common")

    # Connections that break

    def read_all(self, mount, vm):
        for name, disk in vm.disks.items():
            self.assertTrue(qmp_mount.QmpMount.read_direct(mount / f"{name}/disk.raw") == disk.model)

    def test_ssh_killed(self):
        """The storage daemon ends with ssh, and is started again."""
        vm = self.off("vda", "vdb")
        mount = self.begin(vm, "-o", "readahead=0")
        for command in (None, "--commit"):
            self.read_all(mount, vm)
            before, ssh = daemons(vm.scratch), remote.ssh_of(self.tmp)[0]
            os.kill(ssh, signal.SIGKILL)
            self.new_ssh(ssh)
            self.read_all(mount, vm)
            self.assertEqual(len(before), 1)
            self.assertNotEqual(daemons(vm.scratch), before)
        self.end(vm, mount, command)
        self.check_nothing_left(vm, 1)

    def test_storage_daemon_killed(self):
        vm = self.off()
        mount = self.begin(vm, "-o", "readahead=0")
        self.read_all(mount, vm)
        [pid] = daemons(vm.scratch)
        os.kill(pid, signal.SIGKILL)
        self.read_all(mount, vm)
        self.end(vm, mount, "--commit")
        self.check_nothing_left(vm, 1)

    def test_image_changed_meanwhile(self):
        """The image is written to while the connection is broken: reads fail."""
        link = sshd.Link(self, self.sshd.port)
        vm = self.off(full=False)
        mount = self.begin(vm, "-o", "readahead=0", port=link.port,
                           known=self.sshd.write_known("link", "host", link.port))
        self.read_all(mount, vm)
        link.end()
        self.await_nothing_there(vm)
        disks.qemu_io(vm.disks["vda"].image, ["write -q -P 77 0 4096"])
        sshd.Link(self, self.sshd.port, own=link.port)
        self.assert_errno(errno.EIO, qmp_mount.QmpMount.read_direct, mount / "vda/disk.raw")
        self.assert_refused("--commit", "--force", mount.point, says=["has changed"])
        self.end(vm, mount, "--abort")
        self.check_nothing_left(vm, 0)

    def test_lost_for_good(self):
        """Reads fail, and nothing is left there."""
        link = sshd.Link(self, self.sshd.port)
        vm = self.off(full=False)
        mount = self.begin(vm, "-o", "timeout=10,reconnect=3", port=link.port,
                           known=self.sshd.write_known("link", "host", link.port))
        link.end()
        self.assert_errno(errno.EIO, qmp_mount.QmpMount.read_direct, mount / "vda/disk.raw")
        self.await_nothing_there(vm)
        self.end(vm, mount, "--abort", 3, "fleecefs --recover")
        self.recover(vm)
        self.check_nothing_left(vm, 0)

    def test_daemon_killed(self):
        """Nothing is left there, and the VM can be started again."""
        vm = self.off(full=False)
        mount = self.begin(vm)
        self.assertEqual(len(daemons(vm.scratch)), 1)
        mount.kill()
        lib.run("umount", "-l", mount.point)
        self.await_end()
        self.await_nothing_there(vm)
        vm.start()
        self.check_nothing_left(vm, 0)

    def test_killed_at_once(self):
        """Killed at a random moment while it begins: nothing is left."""
        vm = self.off(full=False)
        for _ in range(remote.KILLS):
            process = subprocess.Popen(
                [*lib.FLEECEFS, "-f", "-o", "scratch=" + vm.scratch, self.source(vm), self.point],
                env=self.environment_of(vm), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not remote.ssh_of(self.tmp) and process.poll() is None:
                pass
            time.sleep(self.rng.random())
            process.kill()
            process.wait()
            lib.attempt("umount", "-l", self.point)
            self.await_end()
            self.await_nothing_there(vm)
        self.check_nothing_left(vm, 0)

    # Scripts

    def test_all_domains(self):
        """Domains that run and domains that are shut off; restored."""
        running = self.domain("vda", "vdb")
        off = self.off("vda", "vdb", full=False)
        uri = (f"qemu+ssh://root@127.0.0.1:{self.sshd.port}/system?command={self.sshd.command}&"
               f"socket={off.libvirtd.socket}&netcat={self.sshd.netcat}&no_tty=1")
        to, env = self.mkdir("backups"), {**self.environment_of(off), **self.environment()}
        for run in range(2):
            running.scribble(self.rng, 2)
            done = lib.attempt(remote.BACKUP, "--all", "--connect", uri, "-o",
                               "scratch=" + off.scratch, "qcow2", to, env=env,
                               timeout=2 * lib.PATIENCE)
            self.assertEqual(done.returncode, 0, done.stderr)
            for vm, mode in ((running, "since" if run else "full"), (off, "full")):
                self.assertRegex(done.stderr, f"{vm.name}: [^ ]+: vda {mode}")
                self.assertRegex(done.stderr, f"{vm.name}: [^ ]+: done")
                for name, disk in vm.disks.items():
                    out, plain = self.path("restored"), self.path("plain")
                    lib.run(remote.RESTORE, f"{to}/{vm.name}", "-d", name, out)
                    lib.run("qemu-img", "convert", "-O", "raw", out, plain)
                    with open(plain, "rb") as f:
                        self.assertTrue(f.read() == disk.model)
            self.check_nothing_left(off, 0)
            self.check_nothing_left(running, 1)


if __name__ == "__main__":
    lib.main()
