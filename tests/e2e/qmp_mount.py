#!/usr/bin/env python3
"""`fleecefs qmp:PATH` as users run it: mount, back up, commit or abort, restore."""
import concurrent.futures
import contextlib
import errno
import mmap
import os
import select
import shutil
import signal
import socket
import threading
import time

import lib
from monitor import Filter
from vm import Disk, Vm


class Chain:
    """Backups of one disk: a raw file updated with ddrescue, and a chain of qcow2 files."""

    def __init__(self, test, name):
        self.test, self.name = test, name
        self.raw, self.images = None, []

    def copy(self, mount):
        """Takes a backup from MOUNT; returns (raw file, qcow2 file), not part of the chain yet."""
        folder = mount / self.name
        info = mount.json(f"{self.name}/info.json")
        raw, image = self.test.path("raw"), self.test.path("qcow2")
        if info["mode"] == "full":
            lib.run("cp", "--sparse=always", f"{folder}/disk.raw", raw)
            shutil.copyfile(f"{folder}/disk.qcow2", image)
            return raw, [image]
        shutil.copyfile(self.raw, raw)
        lib.run("ddrescue", "--quiet", "--force", f"--domain-mapfile={folder}/dirty/last.ddrescue",
                f"{folder}/dirty/last.raw", raw)
        shutil.copyfile(f"{folder}/dirty/last.qcow2", image)
        lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", self.images[-1], image)
        return raw, [*self.images, image]

    def keep(self, backup):
        self.raw, self.images = backup

    def check(self, backup, expected):
        raw, images = backup
        with open(raw, "rb") as f:
            self.test.assertTrue(f.read() == expected, f"{self.name}: raw differs")
        plain = self.test.path("plain")
        lib.run("qemu-img", "convert", "-O", "raw", images[-1], plain)
        with open(plain, "rb") as f:
            self.test.assertTrue(f.read() == expected, f"{self.name}: qcow2 differs")
        os.unlink(plain)


def back_up(mount, chains, expected, keep):
    """Backs up the disks of CHAINS (name: Chain) from MOUNT and compares them with EXPECTED (name: bytes);
    if KEEP, the chains continue from there."""
    for name, chain in chains.items():
        backup = chain.copy(mount)
        chain.check(backup, expected[name])
        if keep:
            chain.keep(backup)


class Relay:
    """Forwards connections at `path` to a server at TARGET until they are cut."""

    def __init__(self, test, target):
        self.path, self.target, self.open = test.path("relay"), target, []
        self.threads = []
        self.go = threading.Event()  # nothing is forwarded while it is clear
        self.go.set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        test.defer(self.listener.shutdown, socket.SHUT_RDWR)
        test.defer(self.cut)
        test.defer(self.go.set)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with self.listener:
            while True:
                try:
                    client = self.listener.accept()[0]
                except OSError:
                    return
                self.open.append(client)
                self.threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self.threads[-1].start()

    def _serve(self, client):
        with socket.socket(socket.AF_UNIX) as server:
            with client, contextlib.suppress(OSError):
                server.connect(self.target)
                self._pass_on(client, server)
            # QEMU 7.2 hangs when its server is stopped while a client is negotiating.
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
                while server.recv(1 << 20):
                    pass

    def _pass_on(self, client, server):
        while True:
            for end in select.select([client, server], [], [])[0]:
                data = end.recv(1 << 20)
                if not data:
                    return
                self.go.wait()
                (server if end is client else client).sendall(data)

    def in_use(self):
        """Returns the number of connections that the client has not closed."""
        poll = select.poll()
        clients = [c for c in self.open if c.fileno() >= 0]
        for client in clients:
            poll.register(client, select.POLLRDHUP)
        return len(clients) - len(poll.poll(0))

    def wait(self):
        """Waits for all connections to end, on the server's side too."""
        for thread in self.threads:
            thread.join(lib.PATIENCE)
            assert not thread.is_alive()

    def cut(self):
        """Cuts all connections; returns their number."""
        cut, self.open = self.open, []
        for client in cut:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        return len(cut)


class QmpMount(lib.TestCase):
    def vm(self, *disks):
        lib.require("ddrescue")
        return Vm(self, disks or [Disk(self, "vda"), Disk(self, "vdb", kind="raw")])

    def begin(self, vm, *options):
        return self.mount("qmp:" + vm.monitor, env=vm.environment(),
                          options=["-o", "scratch=" + self.dir, *options])

    def end(self, vm, mount, command, *options):
        done = self.fleecefs(command, *options, mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertFalse(lib.is_mounted(mount.point))
        mount.check_gone()
        self.assertEqual(vm.leftovers(), [])

    def models(self, vm):
        return {name: bytes(disk.model) for name, disk in vm.disks.items()}

    @staticmethod
    def wait_failed(mount, count=1):
        """Waits until the daemon has seen COUNT disks fail; returns the reasons by disk
        name."""
        while True:
            disks = mount.json(".fleecefs/status.json")["exports"]
            failed = {d["name"]: d["failure"] for d in disks if d["state"] == "failed"}
            if len(failed) >= count:
                return failed

    def test_nothing_changes_while_mounted(self):
        vm = self.vm(Disk(self, "vda"), Disk(self, "vdb", kind="raw"),
                     Disk(self, "vdc", kind="data-file"), Disk(self, "vdd", style="drive"))
        vm.scribble(self.rng)
        before = self.models(vm)
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), sorted(vm.disks))
        self.end(vm, mount, "--commit", "--force")
        vm.scribble(self.rng)
        before = self.models(vm)
        mount = self.begin(vm)
        files = mount.files()
        self.assertEqual(sum("/dirty/last." in f for f in files), 6 * len(vm.disks))
        # Half of the files are read before the guest writes, all of them after.
        first = {f: mount.read(f, "rb") for f in files[::2]}
        for name in vm.disks:
            vm.scribble(self.rng, 5)
            vm.zero(name, 0, lib.MIB, "discard")
            vm.zero(name, 3 * lib.MIB, lib.MIB, "write -z")
            vm.write(name, 4 * lib.MIB + 100, 100, 77)
            vm.write(name, 512, 512, 77)
        for name, data in first.items():
            self.assertTrue(self.read_direct(mount / name) == data, name)
        for name, data in before.items():
            self.assertTrue(self.read_direct(mount / f"{name}/disk.raw") == data, name)
            new, info = self.path("new"), mount.json(f"{name}/info.json")
            self.assertEqual(info["mode"], "incremental")
            lib.run("qemu-img", "compare", "-q", "-F", "raw", mount / f"{name}/dirty/last.qcow2",
                    mount / f"{name}/disk.raw")
            lib.run("qemu-img", "convert", "-O", "raw", mount / f"{name}/disk.qcow2", new)
            with open(new, "rb") as f:
                self.assertTrue(f.read() == data, name)
        self.end(vm, mount, "--abort")

    def test_commit_requires_everything_read(self):
        vm = self.vm()
        vm.scribble(self.rng)
        mount = self.begin(vm)
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\d+ of \d+ bytes of disk vd. were not read")
        mount.read("vda/disk.raw", "rb")
        self.assertEqual(self.fleecefs("--commit", mount.point).returncode, 1)
        # The mount remains usable.
        self.assertEqual(mount.read("vdb/disk.raw", "rb"), bytes(vm.disks["vdb"].model))
        self.end(vm, mount, "--commit")

        # One increment is read as qcow2, the other as raw with its map: both count.
        vm.write("vda", 0, 65536, 5)
        vm.zero("vda", 1 << 20, 65536)
        vm.write("vdb", 0, 512, 6)
        mount = self.begin(vm)
        mount.read("vda/dirty/last.qcow2", "rb")
        self.assertEqual(self.fleecefs("--commit", mount.point).returncode, 1)
        mount.read("vdb/dirty/last.raw", "rb")
        status = mount.json(".fleecefs/status.json")
        self.assertEqual([d["covered_bytes"] for d in status["exports"]],
                         [d["wanted_bytes"] for d in status["exports"]])
        self.end(vm, mount, "--commit")

        # So does a copy of the whole disk, whose tables show what became zeros.
        vm.write("vda", 0, 65536, 7)
        vm.zero("vda", 1 << 20, 1 << 20)
        mount = self.begin(vm)
        lib.run("qemu-img", "info", "-U", mount / "vda/disk.qcow2")
        self.assertEqual(self.fleecefs("--commit", mount.point).returncode, 1)
        mount.read("vda/disk.qcow2", "rb")
        self.end(vm, mount, "--commit")

        # A tool that seeks over the holes of disk.raw knows them too.
        vm.write("vda", 0, 65536, 8)
        vm.zero("vda", 1 << 20, 1 << 20)
        mount = self.begin(vm)
        lib.run("tar", "-C", mount.point, "-cSf", self.path("tar"), "vda/disk.raw")
        self.end(vm, mount, "--commit")

        # Without changes there is nothing to read.
        self.end(vm, self.begin(vm), "--commit")
        vm.scribble(self.rng)
        mount = self.begin(vm)
        self.end(vm, mount, "--commit", "--force")

    def test_another_bitmaps_file_does_not_count(self):
        """Its holes do not show the disk's data."""
        vm = self.vm(Disk(self, "vda"))
        vm.write("vda", 0, 1 << 20, 1)
        mount = self.begin(vm)
        self.end(vm, mount, "--commit", "--force")
        vm.write("vda", 0, 1 << 20, 2)
        vm.qmp("block-dirty-bitmap-add", node="vda", name="other")
        mount = self.begin(vm)
        mount.read("vda/dirty/other.raw", "rb")
        (disk,) = mount.json(".fleecefs/status.json")["exports"]
        self.assertEqual(disk["covered_bytes"], 0)
        self.assertEqual(self.fleecefs("--commit", mount.point).returncode, 1)
        mount.read("vda/dirty/last.raw", "rb")
        self.end(vm, mount, "--commit")

    def two_vms(self):
        """Returns two VMs, filters of their monitors, and one mount of both, read completely."""
        vms = [self.vm(Disk(self, name)) for name in ("vda", "vdb")]
        monitors = [Filter(vm) for vm in vms]
        for vm, name in zip(vms, ("vda", "vdb")):
            vm.write(name, 0, 1 << 20, 1)
        mount = self.mount(*(f"{name}=qmp:{monitor.path}"
                             for name, monitor in zip("ab", monitors)), env=vms[0].environment(),
                           options=["-o", f"scratch={self.dir},readahead=0"])
        for name in ("a/vda", "b/vdb"):
            mount.read(name + "/disk.raw", "rb")
        return vms, monitors, mount

    def test_one_vm_of_two_cannot_commit(self):
        """Then neither is committed."""
        vms, _, mount = self.two_vms()
        vms[1].qmp("job-cancel", id="fleecefs-0-job")
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 1)
        self.read_direct(mount / "a/vda/disk.raw")
        self.end(vms[0], mount, "--abort")
        self.assertEqual([vm.points() for vm in vms], [{}, {}])

    def test_one_vm_of_two_refuses_when_the_other_has_committed(self):
        vms, monitors, mount = self.two_vms()
        before = monitors[0].commands.count("transaction")

        def refuse(message):
            if monitors[0].commands.count("transaction") > before and \
                    monitors[1].commands[-1] == "query-jobs":
                for job in message.get("return", []):
                    job.update(status="concluded", error="a test")
            return message

        monitors[1].edit = refuse
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 1)
        self.assertIn("vdb", done.stderr)
        self.assertEqual(len(vms[0].points()), 1)
        # Readers of an ended snapshot do not wait.
        self.assert_errno(errno.EIO, self.read_direct, mount / "a/vda/disk.raw")
        failed = [e["name"] for e in mount.json(".fleecefs/status.json")["exports"]
                  if e["state"] == "failed"]
        self.assertIn("vda", failed)
        monitors[1].edit = lambda message: message
        self.end(vms[0], mount, "--abort")
        self.assertEqual([len(vm.points()) for vm in vms], [1, 0])

    def test_facts_of_a_mount(self):
        vm = self.vm()
        mount = self.begin(vm)
        first = mount.json("vda/info.json")
        self.assertEqual(first["mode"], "full")
        self.assertIn("no restore point", first["reason"])
        self.assertFalse(os.path.exists(mount / "vda/dirty"))
        self.assertIn("full backup, because", mount.output())
        time = os.stat(mount / "vda/disk.raw").st_mtime
        self.end(vm, mount, "--commit", "--force")

        mount = self.begin(vm)
        second = mount.json("vda/info.json")
        self.assertEqual((second["mode"], second["base"]), ("incremental", first["restore_point"]))
        self.assertNotIn("reason", second)
        name = mount / "vda/dirty/last.raw"
        self.assertEqual(os.getxattr(name, "user.fleecefs.base").decode(), first["restore_point"])
        self.assertEqual(os.getxattr(name, "user.fleecefs.restore_point").decode(),
                         second["restore_point"])
        self.assertEqual(os.getxattr(name, "user.fleecefs.granularity"), b"65536")
        self.assertGreater(int(os.stat(mount / "vda/disk.raw").st_mtime), int(time))
        self.end(vm, mount, "--abort")

    def test_maps_stay_when_connections_do_not(self):
        """Guest writes change the block status that the server reports, but not the mount's maps;
        a new connection is still recognized as the same disk."""
        vm = self.vm(Disk(self, "vda"), Disk(self, "vdb", kind="raw"),
                     Disk(self, "vdc", kind="data-file"))
        for name in vm.disks:
            vm.write(name, 0, 4 * lib.MIB, 1)
        self.end(vm, self.begin(vm), "--commit", "--force")
        vm.scribble(self.rng)
        before = self.models(vm)
        server = self.path("server")
        vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": server}})
        relay = Relay(self, server)
        mount = self.begin(vm, "-o", f"nbd=nbd+unix:///?socket={relay.path},readahead=0")
        texts = [f for f in mount.files() if f.endswith((".map", ".json", ".ddrescue", ".pbm"))]
        said = {name: mount.read(name) for name in texts}
        cut = 0
        for round_ in range(4):
            vm.scribble(self.rng, 10)
            for name in vm.disks:
                # Discards data and holes, and then what was written meanwhile.
                vm.zero(name, 0, 2 * lib.MIB, "discard")
                vm.write(name, (4 + 2 * round_) * lib.MIB, 2 * lib.MIB, 9)
            cut += relay.cut()
            for name, data in before.items():
                with self.subTest(round=round_, disk=name):
                    self.assertTrue(self.read_direct(mount / f"{name}/disk.raw") == data)
            self.assertEqual({name: mount.read(name) for name in texts}, said)
        status = mount.json(".fleecefs/status.json")["exports"]
        self.assertEqual({d["state"] for d in status}, {"ok"})
        self.assertGreater(min(d["reconnects"] for d in status), 0)
        print(f"{cut} connections cut", end=" ")
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()
        relay.wait()
        vm.qmp("nbd-server-stop")
        self.assertEqual(vm.leftovers(), [])

    def test_times_are_reported(self):
        """Prints the best of three: time until the tree is ready, and how long guest writes are held.
        Not asserted, because the machine may be busy."""
        vm, taken = self.vm(), []
        for _ in range(3):
            start = time.monotonic()
            mount = self.begin(vm, "-v")
            self.assertEqual(mount.folders(), sorted(vm.disks))
            seconds = time.monotonic() - start
            self.assertRegex(mount.output(), "snapshot taken in [0-9.]+ ms; guest writes "
                             "held for [0-9.]+ ms, guest frozen for 0.0 ms")
            disk = mount.json(".fleecefs/status.json")["exports"][0]
            self.assertEqual(disk["frozen_ms"], 0)
            self.assertLessEqual(disk["held_ms"], disk["begin_ms"])
            taken.append((disk["held_ms"], disk["begin_ms"], round(seconds * 1000)))
            self.end(vm, mount, "--abort")
        print("mounted in %d ms, snapshot taken in %d ms, writes held for %d ms" %
              (min(t[2] for t in taken), min(t[1] for t in taken), min(t[0] for t in taken)),
              end=" ")

    def test_status_shows_what_to_read(self):
        vm = self.vm(Disk(self, "vda"))
        self.end(vm, self.begin(vm), "--commit", "--force")
        vm.scribble(self.rng)
        mount = self.begin(vm)
        mount.json("vda/info.json")
        page = self.fleecefs("--status", mount.point).stdout
        self.assertRegex(page, r"\n  mode +incremental, since restore point \S+\n")
        self.assertRegex(page, r"\n  scratch +\[#*-+\] +\d+%  \S+ \S+ of \S+ \S+ used\n")
        self.assertIn(" must still be read before --commit.\n", page)
        mount.read("vda/dirty/last.raw", "rb")
        page = self.fleecefs("--status", mount.point).stdout
        self.assertRegex(page, r"\n  dirty +\[#+\] 100%  ")
        self.assertTrue(page.endswith(f": fleecefs --commit {mount.point}\n"), page)
        self.end(vm, mount, "--commit")

    def test_every_way_to_end_is_an_abort(self):
        vm = self.vm()
        self.end(vm, self.begin(vm), "--commit", "--force")
        points = vm.points()
        for how in ("fusermount3", "SIGTERM", "SIGINT", "kill"):
            with self.subTest(how=how):
                mount = self.begin(vm)
                if how == "kill":
                    mount.kill()
                    lib.run("fusermount3", "-u", mount.point)
                    self.assertNotEqual(vm.leftovers(), [])
                    done = lib.attempt(*lib.FLEECEFS, "--recover", "qmp:" + vm.monitor,
                                       env=vm.environment())
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertRegex(done.stdout, r"\A([^\n]+\n)+\Z")
                elif how == "fusermount3":
                    mount.unmount()
                else:
                    os.kill(mount.pid, getattr(signal, how))
                    mount.check_gone()
                self.assertEqual(vm.leftovers(), [])
                self.assertEqual(vm.points(), points)

    def test_snapshots_that_are_lost(self):
        """Reads fail, the daemon reports why, commit is refused, and the other disk remains readable."""
        null = '{"driver": "null-co", "node-name": "sda", "size": 1048576, "read-zeroes": true}'
        for how, says in (("unplug", "unplugged|its backup job"), ("export", "export was removed"),
                          ("quit", "QEMU has ended|export was removed"), ("kill", "QEMU has ended")):
            with self.subTest(how=how):
                vm = Vm(self, [Disk(self, "vda")], [
                    "-device", "virtio-scsi-pci", "-blockdev", null,
                    "-device", "scsi-hd,id=dev-sda,drive=sda"])
                vm.scribble(self.rng)
                before = {"vda": bytes(vm.disks["vda"].model), "sda": bytes(lib.MIB)}
                mount = self.begin(vm)
                if how == "unplug":
                    vm.qmp("device_del", id="dev-sda")
                elif how == "export":
                    vm.qmp("block-export-del", id="fleecefs-1-export", mode="hard")
                elif how == "quit":
                    vm.quit()
                else:
                    vm.kill()
                failed = self.wait_failed(mount, 2 if "QEMU" in says else 1)
                for name, why in failed.items():
                    self.assertRegex(why, says)
                    # Also in ranges that the map shows as zeros.
                    self.assert_errno(5, self.read_direct, mount / f"{name}/disk.raw")
                done = self.fleecefs("--commit", "--force", mount.point)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, "cannot commit: .* disk .* is lost: ")
                if len(failed) == 1:
                    vm.scribble(self.rng)
                    for name in {"sda", "vda"} - set(failed):
                        self.assertTrue(self.read_direct(mount / f"{name}/disk.raw") ==
                                        before[name])
                    self.end(vm, mount, "--abort")
                    continue
                done = self.fleecefs("--abort", mount.point)
                self.assertEqual(done.returncode, 3)
                self.assertRegex(done.stderr, "QEMU has ended; .* the next backup of this VM removes")
                mount.check_gone()
                vm.start()
                self.end(vm, self.begin(vm), "--abort")

    def test_data_connections_that_stall(self):
        """Commit and abort do not wait for them, and readers get an error."""
        for command in ("--commit", "--abort"):
            with self.subTest(command=command):
                vm = self.vm()
                server = self.path("server")
                vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": server}})
                relay = Relay(self, server)
                vm.scribble(self.rng)
                vm.write("vda", lib.MIB, 4096, 1)  # zeros are read without the server
                mount = self.begin(vm, "-o",
                                   f"nbd=nbd+unix:///?socket={relay.path},readahead=0")
                for name in vm.disks:
                    self.read_direct(mount / f"{name}/disk.raw")
                relay.go.clear()
                with concurrent.futures.ThreadPoolExecutor() as pool:
                    reader = pool.submit(self.read_direct, mount / "vda/disk.raw")
                    while not reader.done() and not any(
                            d["requests_in_flight"]
                            for d in mount.json(".fleecefs/status.json")["exports"]):
                        pass
                    start = time.monotonic()
                    done = self.fleecefs(command, mount.point)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    # Less than the timeout of a silent server.
                    self.assertLess(time.monotonic() - start, 20)
                    self.assertIsInstance(reader.exception(lib.PATIENCE), OSError)
                mount.check_gone()
                relay.go.set()
                relay.wait()
                vm.qmp("nbd-server-stop")
                self.assertEqual(vm.leftovers(), [])

    def test_connections_close_before_anything_ends(self):
        """Including those still in negotiation: QEMU 7.2 hangs if its server is stopped then."""
        vm = self.vm()
        server = self.path("server")
        vm.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": server}})
        relay = Relay(self, server)
        vm.write("vda", 0, 4096, 1)
        monitor, at_reply = Filter(vm), {}

        def look(message):
            at_reply.setdefault(monitor.commands[-1], relay.in_use())
            return message

        mount = self.mount("qmp:" + monitor.path, env=vm.environment(), options=[
            "-o", f"scratch={self.dir},nbd=nbd+unix:///?socket={relay.path},readahead=0"])
        self.read_direct(mount / "vda/disk.raw")
        monitor.edit = look
        relay.go.clear()
        relay.cut()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            reader = pool.submit(self.read_direct, mount / "vda/disk.raw")
            while not relay.in_use():
                time.sleep(0.01)
            done = self.fleecefs("--abort", mount.point)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIsInstance(reader.exception(lib.PATIENCE), OSError)
        mount.check_gone()
        self.assertEqual(at_reply["block-export-del"], 0)
        relay.go.set()
        relay.wait()
        vm.qmp("nbd-server-stop")
        self.assertEqual(vm.leftovers(), [])

    def test_a_job_that_another_program_ends(self):
        vm = self.vm()
        vm.scribble(self.rng)
        mount = self.begin(vm)
        mount.read("vdb/disk.raw", "rb")
        for job in vm.qmp("query-jobs"):
            vm.qmp("job-cancel", id=job["id"])
        self.wait_failed(mount, 2)
        vm.scribble(self.rng)
        for name in ("vda", "vdb"):
            self.assert_errno(5, self.read_direct, mount / f"{name}/disk.raw")
        done = self.fleecefs("--commit", "--force", mount.point)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.end(vm, mount, "--abort")

    @staticmethod
    def read_direct(path):
        """Reads a whole file, bypassing the page cache."""
        buf, data = mmap.mmap(-1, lib.MIB), bytearray()
        with open(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as f:
            while n := f.readinto(buf):
                data += buf[:n]
        return bytes(data)


if __name__ == "__main__":
    lib.main()
