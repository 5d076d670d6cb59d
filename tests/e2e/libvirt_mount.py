#!/usr/bin/env python3
"""`fleecefs libvirt:DOMAIN` as users run it: mount, back up, commit or abort, restore."""
import errno
import os
import select
import shutil
import subprocess
import threading
import time

import disks
import lib
import qmp_mount
import qmp_confirm
from libvirtd import Domain, Proxy
from outage import AT_ONCE
from vm import Disk, Qmp


class LibvirtMount(lib.TestCase):
    def begin(self, vm, *options):
        return self.mount(vm.source(), env=vm.environment(),
                          options=["-o", "scratch=" + vm.scratch, *options])

    def end(self, vm, mount, command, status=0, says=r"\A\Z"):
        done = self.fleecefs(command, mount.point)
        self.assertRegex(done.stderr, says)
        self.assertEqual(done.returncode, status)
        mount.check_gone()

    def test_full_and_increments(self):
        lib.require("ddrescue")
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        for run, command in enumerate(("--commit", "--abort", "--commit")):
            vm.scribble(self.rng, 2)
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            mount = self.begin(vm)
            self.assertEqual(mount.folders(), ["vda", "vdb"])
            vm.scribble(self.rng, 1)
            for name in chains:
                info = mount.json(f"{name}/info.json")
                self.assertEqual(info["mode"],
                                 "incremental" if run > 0 and name == "vda" else "full")
            qmp_mount.back_up(mount, chains, expected, command == "--commit")
            self.end(vm, mount, command)
            self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))

    def test_job_ended_by_others(self):
        """Reads then fail, commit is refused, and abort takes no time, also of a disk that was never
        read."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.scribble(self.rng, 2)
        mount = self.begin(vm)
        vm.virsh("domjobabort", vm.name)
        # Waits until the daemon has noticed.
        while any(d["state"] == "ok" for d in mount.json(".fleecefs/status.json")["exports"]):
            pass
        self.assert_errno(5, qmp_mount.QmpMount.read_direct, mount / "vda/disk.raw")
        self.assert_refused("--commit", mount.point, says=["job in libvirt has ended", "--abort"])
        self.end(vm, mount, "--abort")
        mount = self.begin(vm)
        vm.virsh("domjobabort", vm.name)
        self.assert_refused("--commit", mount.point, says=["job in libvirt has ended", "--abort"])
        began = time.monotonic()
        self.end(vm, mount, "--abort")
        self.assertLess(time.monotonic() - began, AT_ONCE)
        self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    # Messages

    def test_invalid_sources(self):
        vm = Domain(self, [])
        point = self.mkdir("mnt")
        system = vm.libvirtd.uri()
        for source, status, says in (
                ("libvirt:", 2, ["libvirt:: no domain is given", "virsh list --all"]),
                ("libvirt:?connect=" + system, 2, ["no domain is given"]),
                ("libvirt:x?connect=", 2, ["connect= takes a URI", "qemu:///system"]),
                (f"libvirt:no such?connect={system}", 1, ["libvirt:no such?", "no such domain"]),
                ("libvirt:x?connect=qemu+unix:///system?socket=/nowhere", 1,
                 ["cannot connect to libvirt at qemu", "'/nowhere'", "check that libvirtd runs"]),
                ("libvirt:test?connect=test:///default", 1, ["TEST, not QEMU", "connect=URI"]),
                (vm.source(), 1, [vm.name, "no disk that can be backed up"])):
            self.assert_refused("-o", "scratch=" + vm.scratch, source, point, status=status,
                                says=says)
            if source != vm.source():
                self.assert_refused("--recover", source, status=status, says=says)
        self.assertEqual(vm.leftovers(), [])

    def test_no_permission(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        lib.require("setpriv")
        # The original may be in a folder of root.
        program = self.path("fleecefs")
        shutil.copy(lib.FLEECEFS[0], program)
        point = self.mkdir("mnt")
        shutil.chown(point, "nobody")
        done = lib.attempt("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups",
                           program, vm.source(), point)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")
        self.assertIn("Permission denied", done.stderr)
        self.assertIn("that the user has access", done.stderr)

    def test_names_to_be_escaped(self):
        name = """a<b> & "c" 'd' ?e=%41 \u00fc"""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)], name=name)
        vm.scratch = self.mkdir("""s & <t>"u'\u00fc %41""")
        os.chmod(vm.scratch, 0o1777)
        vm.scribble(self.rng, 2)
        for mode in ("full", "incremental"):
            for source in (vm.source(), f"libvirt:{vm.uuid}?connect={vm.libvirtd.uri()}"):
                mount = self.mount(source, env=vm.environment(),
                                   options=["--scratch=" + vm.scratch])
                self.assertEqual(mount.json("vda/info.json")["mode"], mode)
                self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
                self.end(vm, mount, "--abort" if source == vm.source() else "--commit")
        self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))

    # Writes to the disk after the job has ended and before libvirt stops the NBD server

    read_at_random = qmp_confirm.QmpConfirm.read_at_random
    read = staticmethod(qmp_confirm.QmpConfirm.read)

    def with_monitor(self, *names):
        """Returns a domain whose disks hold OLD, and a second monitor of its QEMU."""
        folder = self.mkdir("qmp")
        os.chmod(folder, 0o777)
        vm = Domain(self, [Disk(self, name) for name in names],
                    arguments=["-qmp", f"unix:{folder}/qmp,server=on,wait=off"])
        qmp = Qmp(f"{folder}/qmp")
        self.defer(qmp.close)
        for name in names:
            vm.write(name, 0, 16 * lib.MIB, qmp_confirm.OLD)
        return vm, qmp

    def overwrite(self, qmp, name, byte=qmp_confirm.NEW):
        path = f"/machine/peripheral/ua-{name}/virtio-backend"
        qmp("human-monitor-command",
            command_line=f'qemu-io -d {path} "write -P {byte} 0 16M"')

    def test_job_ended_while_read(self):
        """No live byte is returned, although libvirt ends the job before it stops the server."""
        vm, qmp = self.with_monitor("vda", "vdb")
        reads = 0
        for round_ in range(qmp_confirm.ROUNDS):
            mount = self.begin(vm, "-o", "readahead=0")
            ready, found = threading.Semaphore(0), []
            readers = [threading.Thread(target=self.read_at_random, args=(
                mount / f"{name}/disk.raw", self.rng.random(), ready, found))
                for name in vm.disks for _ in range(qmp_confirm.READERS)]
            for reader in readers:
                reader.start()
            for _ in readers:
                ready.acquire()
            with subprocess.Popen(["virsh", "-c", vm.libvirtd.uri(), "domjobabort", vm.name],
                                  stdout=subprocess.DEVNULL) as virsh:
                while virsh.poll() is None:
                    for name in vm.disks:
                        self.overwrite(qmp, name)
            reads += qmp_confirm.end_reading(self, readers, found, f"round {round_}")
            self.end(vm, mount, "--abort")
            for name in vm.disks:
                self.overwrite(qmp, name, qmp_confirm.OLD)
        print(f"{qmp_confirm.ROUNDS} rounds, {reads} reads,", end=" ")

    def test_one_call_per_read(self):
        """Once the job is old enough that its age identifies it, one call suffices; another backup of the
        same disk is not mistaken for it."""
        vm, qmp = self.with_monitor("vda")
        calls = []
        proxy = Proxy(self, vm.libvirtd, lambda number: calls.append(number) or Proxy.PASS)
        mount = self.mount(vm.source(proxy.path), env=vm.environment(),
                           options=["-o", f"scratch={vm.scratch},readahead=0"])
        path = mount / "vda/disk.raw"
        read = 0
        for _ in range(lib.PATIENCE * 1000):
            del calls[:]
            self.assertEqual(self.read(path, 0, 65536), (bytes([qmp_confirm.OLD]) * 65536, 0))
            self.assertIn(Proxy.GET_JOB_STATS, calls)
            read = 0 if Proxy.GET_BACKUP in calls else read + 1
            if read == 10:
                break
        self.assertEqual(read, 10)
        vm.virsh("domjobabort", vm.name)
        self.overwrite(qmp, "vda")
        xml = self.path("other.xml")
        with open(xml, "w") as f:
            f.write(f"<domainbackup mode='pull'><server transport='unix' socket='{vm.scratch}/nbd'/>"
                    "</domainbackup>")
        for _ in range(lib.PATIENCE * 100):
            if lib.attempt("virsh", "-c", vm.libvirtd.uri(), "backup-begin", vm.name,
                           xml).returncode == 0:
                break
        else:
            self.fail("another backup could not be started")
        self.assertEqual(self.read(path, 0, 65536), (None, errno.EIO))
        vm.virsh("domjobabort", vm.name)
        self.end(vm, mount, "--abort")

    def test_job_ended_unseen(self):
        """QEMU serves the live disk; libvirtd hangs and has not noticed."""
        vm, qmp = self.with_monitor("vda")
        mount = self.begin(vm, "-o", "timeout=4,readahead=0")
        path = mount / "vda/disk.raw"
        self.assertEqual(self.read(path, 0, 65536), (bytes([qmp_confirm.OLD]) * 65536, 0))
        vm.libvirtd.hang(self)
        job, = (j["id"] for j in qmp("query-jobs"))
        qmp("job-cancel", id=job)
        qmp.wait("JOB_STATUS_CHANGE", id=job, status="concluded")
        self.overwrite(qmp, "vda")
        self.assertEqual(self.read(path, 65536, 65536), (None, errno.EIO))
        vm.libvirtd.resume()
        while any(d["state"] == "ok" for d in mount.json(".fleecefs/status.json")["exports"]):
            self.assertEqual(self.read(path, 131072, 65536), (None, errno.EIO))
        self.end(vm, mount, "--abort")
        self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    def test_shut_off(self):
        """The images are mounted, with the changes since the last checkpoint."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        vm.scribble(self.rng, 2)
        vm.begin().finish("commit")
        vm.write("vda", 65536, 65536, 1)
        vm.quit()
        mount = self.begin(vm)
        for name, disk in vm.disks.items():
            self.assertTrue(mount.read(f"{name}/disk.raw", "rb") == disk.model, name)
        self.assertEqual(mount.json("vda/info.json")["mode"], "incremental")
        extents = [e for e in mount.json("vda/dirty/last.json") if e["dirty"]]
        self.assertEqual([(e["start"], e["length"]) for e in extents], [(65536, 65536)])
        self.end(vm, mount, "--commit")
        self.assertEqual(len(vm.checkpoints()), 1)

    def test_pieces_when_shut_off(self):
        """Pieces have times of the images: tools do not read unchanged pieces again."""
        vm = Domain(self, [Disk(self, "vda", 8 * lib.MIB), Disk(self, "vdb", 4 * lib.MIB, kind="raw")])
        vm.write("vda", 0, 8 * lib.MIB, 1)

        def look(command="--abort"):
            mount = self.begin(vm, "-o", "split=1M")
            self.assertNotIn("the notes of restore point", mount.output())
            times = [[os.stat(mount / f"{name}/split/{piece:06}") for piece in range(count)]
                     for name, count in (("vda", 8), ("vdb", 4))]
            for name in "vda", "vdb":
                mount.read(f"{name}/disk.raw", "rb")
            self.end(vm, mount, command)
            return [[(st.st_mtime_ns, st.st_ctime_ns) for st in disk] for disk in times]

        def check(seen, before, changed):
            self.assertEqual([i for i, time in enumerate(seen[0]) if time != before[0][i]], changed)
            self.assertGreater(min(seen[0][i][0] for i in changed), max(before[0])[0])

        first = look("--commit")
        vm.write("vda", 2 * lib.MIB, 65536, 2)
        vm.quit()
        seen = look()
        check(seen, first, [2])
        self.assertEqual(look("--commit"), seen)
        self.assertEqual(look(), seen)
        disks.qemu_io(vm.disks["vda"].image, [f"write -q -P 3 {5 * lib.MIB} 64k"])
        again = look()
        check(again, seen, [2, 5])
        self.assertEqual(look(), again)
        vm.start()
        check(look("--commit"), again, [2, 5])

    def test_shut_off_by_a_crash(self):
        """Its bitmap cannot be trusted: a full backup, with that reason."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.begin().finish("commit")
        vm.quit()
        vm.start()
        vm.write("vda", 65536, 65536, 1)
        vm.io("vda", "flush")
        vm.kill()
        mount = self.begin(vm)
        info = mount.json("vda/info.json")
        self.assertEqual(info["mode"], "full")
        self.assertIn("inconsistent", info["reason"])
        self.assertFalse([f for f in mount.files() if "dirty/last" in f])
        mount.read("vda/disk.raw", "rb")
        self.end(vm, mount, "--commit")

    # A libvirtd, or a QEMU, that does not answer

    def check_hangs(self, mount, read=qmp_mount.QmpMount.read_direct):
        """Reads that libvirt cannot confirm fail, and the mount remains."""
        began = time.monotonic()
        self.assert_errno(errno.EIO, read, mount / "vda/disk.raw")
        self.assert_refused("--commit", "--force", mount.point, says=["does not answer in time"])
        self.assertLess(time.monotonic() - began, 3 * AT_ONCE)

    def test_libvirtd_hangs(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.scribble(self.rng, 2)
        vm.write("vda", 0, 65536, 1) # zeros would be read from the map
        mount = self.begin(vm, "-o", "timeout=4,readahead=0")
        mount.read("vda/disk.raw", "rb")
        vm.libvirtd.hang(self)
        self.check_hangs(mount)
        vm.libvirtd.resume()
        self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
        self.end(vm, mount, "--commit")
        self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))

    def test_libvirtd_restarted(self):
        """Reads wait for the new libvirtd and then succeed, and so does the commit."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.scribble(self.rng, 2)
        mount = self.begin(vm, "-o", "readahead=0")
        path = mount / "vda/disk.raw"
        data, _ = self.read(path, 0, 65536)
        self.assertEqual(data, bytes(vm.disks["vda"].model[:65536]))
        vm.libvirtd.kill()
        found = []
        reader = threading.Thread(target=lambda: found.append(self.read(path, 65536, 65536)))
        reader.start()
        vm.libvirtd.start()
        reader.join(lib.PATIENCE)
        self.assertEqual(found, [(bytes(vm.disks["vda"].model[65536:131072]), 0)])
        self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
        vm.libvirtd.kill()
        vm.libvirtd.start()
        self.end(vm, mount, "--commit")
        self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))

    def test_end_while_libvirtd_or_qemu_hangs(self):
        """What cannot be cleaned up is left and reported; the mount ends."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        for what in (None, vm.pid()):
            for command in ("--abort", "umount"):
                mount = self.begin(vm, "-o", "timeout=4")
                vm.libvirtd.hang(self, what)
                if command == "umount":
                    lib.run("umount", mount.point)
                    # It has not waited for the daemon, which tries for 4 s.
                    self.assertFalse(select.select([mount.processes[mount.pid]], [], [], 0)[0])
                else:
                    done = self.fleecefs(command, mount.point)
                    self.assertEqual(done.returncode, 3, done.stderr)
                    self.assertIn("does not answer in time", done.stderr)
                    self.assertIn("--recover", done.stderr)
                self.assertFalse(lib.is_mounted(mount.point))
                lib.wait_gone(mount.processes[mount.pid], "fleecefs", 2 * AT_ONCE)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(mount.pid, 0)[1]),
                                 3 if command == "umount" else 0)
                vm.libvirtd.resume(what)
                self.assertIn("ended a backup job", vm.recover())
                self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    def test_begin_while_libvirtd_hangs(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.libvirtd.hang(self)
        for command in ([self.mkdir("mnt")], ["--recover"]):
            began = time.monotonic()
            self.assert_refused("-o", "timeout=2", *command[:-1], vm.source(), *command[-1:],
                                says=["cannot connect", "does not answer in time", "timeout="])
            self.assertLess(time.monotonic() - began, AT_ONCE)


if __name__ == "__main__":
    lib.main()
