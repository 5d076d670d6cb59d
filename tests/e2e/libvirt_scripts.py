#!/usr/bin/env python3
"""contrib/fleecefs-backup with all domains of a libvirtd, including those that are shut off."""
import lib
from libvirtd import Domain
from vm import Disk

BACKUP, RESTORE = (f"{lib.TOP}/contrib/fleecefs-{n}" for n in ("backup", "restore"))


class LibvirtScripts(lib.TestCase):
    def backup(self, domain, says, status=0):
        done = lib.attempt(BACKUP, "--all", "--connect", domain.libvirtd.uri(), "-o",
                           "scratch=" + domain.scratch, "qcow2", self.to, env=self.env,
                           timeout=2 * lib.PATIENCE)
        self.assertRegex(done.stderr, says)
        self.assertEqual(done.returncode, status, done.stderr)

    def check(self, domain):
        out, plain = self.path("restored"), self.path("plain")
        lib.run(RESTORE, f"{self.to}/{domain.name}", "-d", "vda", out)
        lib.run("qemu-img", "convert", "-O", "raw", out, plain)
        with open(plain, "rb") as f:
            self.assertTrue(f.read() == domain.disks["vda"].model, domain.name)

    def test_all_domains(self):
        self.env, self.to = self.environment(), self.mkdir("backups")
        first, second = (Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB)])
                         for _ in range(2))
        for run in range(3):
            for domain in (first, second):
                domain.scribble(self.rng, 2)
            self.backup(first, "(?s)" + ".*".join(
                f"{d.name}: \\d+T\\d+Z-[0-9a-f]{{16}}: vda {'since' if run else 'full'}.*{d.name}: \\d+T\\d+Z-[0-9a-f]{{16}}: done"
                for d in (first, second)))
            for domain in (first, second):
                self.check(domain)
                self.assertEqual(domain.leftovers(), [])

        # A domain that is shut off gets no new restore point: the next increment has the same base.
        second.scribble(self.rng, 2)
        second.quit()
        self.backup(first, f"{second.name}: \\d+T\\d+Z-[0-9a-f]{{16}}: vda since")
        self.check(second)
        second.start()
        second.scribble(self.rng, 2)
        self.backup(first, f"{second.name}: \\d+T\\d+Z-[0-9a-f]{{16}}: vda since")
        self.check(second)
        self.assertEqual([len(d.checkpoints()) for d in (first, second)], [1, 1])

        # A domain that is named but does not exist.
        done = lib.attempt(BACKUP, "qcow2", self.to, f"libvirt:x?connect={first.libvirtd.uri()}",
                           env=self.env)
        self.assertRegex(done.stderr, "x: FAILED: no snapshot could be taken")
        self.assertEqual(done.returncode, 1)

    def test_missing_disk(self):
        """A disk with data that cannot be included, here a part of a file while the VM is shut off, is no
        success, unless the others are given by name. Drives and read-only disks do not count."""
        self.env, self.to = self.environment(), self.mkdir("backups")
        part, fixed = self.path("part.raw"), self.path("fixed.raw")
        for path in (part, fixed):
            with open(path, "wb") as f:
                f.truncate(2 * lib.MIB)
        disk = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>" \
               "<source file='{}'>{}</source><target dev='{}' bus='virtio'/>{}</disk>"
        slices = f"<slices><slice type='storage' offset='0' size='{lib.MIB}'/></slices>"
        vm = Domain(self, [Disk(self, "vda", lib.MIB)],
                    devices=disk.format(part, slices, "vdb", "") + disk.format(fixed, "", "vdc", "<readonly/>"))
        self.backup(vm, "done\n")
        vm.quit()
        self.backup(vm, r"left out: vdb \(a slice.*\n(.*\n)*fleecefs-backup: .* done, but without vdb: .* -o "
                        r"disk=\n\Z", status=3)
        self.check(vm)
        done = lib.attempt(BACKUP, "--quiet", "--json", "-o", f"scratch={vm.scratch}", "qcow2", self.to,
                           vm.source(), env=self.env)
        self.assertEqual((done.returncode, lib.json.loads(done.stdout)["missing_disks"]), (3, ["vdb"]))
        done = lib.attempt(BACKUP, "-o", f"scratch={vm.scratch},disk=vda", "qcow2", self.to, vm.source(),
                           env=self.env)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    lib.main()
