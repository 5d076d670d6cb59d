#!/usr/bin/env python3
"""fleecefs-backup, where the folder also has backups by other tools, damaged backups, or copies."""
import os
import shutil

import lib
import scripts


class Odd(scripts.Base):
    def setUp(self):
        super().setUp()
        self.expected = {}

    def add(self, vm, tool, *options, says="."):
        """Takes a backup and returns its name."""
        models = self.models(vm)
        name = self.backup(vm, *options, tool=tool, says=says)[0]
        self.expected[name.removesuffix(".tar")] = models
        vm.scribble(self.rng)
        return name

    def check_kept(self, *names, without=()):
        """Checks that NAMES are kept, and restores all their disks but those WITHOUT (name, disk)."""
        self.assertEqual(sorted(self.generations()), sorted(names))
        for name in names:
            for disk, model in self.expected[name].items():
                if (name, disk) not in without:
                    got = self.restore(self.to, "--at", name, "--disk", disk, "-O", "raw")
                    self.assertTrue(got == model, f"{name} {disk}")

    def damage(self, path):
        """Changes a byte of the file at PATH below the destination, which a check then finds."""
        path = f"{self.to}/web/{path}"
        os.chmod(path, 0o644)
        with open(path, "r+b") as f:
            f.seek(os.path.getsize(path) // 2)
            byte = f.read(1)[0]
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte ^ 1]))
        done = lib.attempt(scripts.RESTORE, "--check", self.to)
        self.assertEqual(done.returncode, 1)
        self.assertIn("DAMAGED", done.stdout)

    def test_rsync_keeps_the_chains_of_others(self):
        lib.require("rsync")
        vm = self.vm("vda")
        full, increment = self.add(vm, "qcow2"), self.add(vm, "qcow2", says="vda since")
        pieces = [self.add(vm, "rsync", "--keep", "last=2")]
        self.check_kept(full, increment, *pieces)
        pieces += [self.add(vm, "rsync", "--keep", "last=2")]
        self.check_kept(*pieces)

    def test_rsync_keeps_the_base_of_others(self):
        """An increment in qcow2 on a generation in pieces."""
        lib.require("rsync")
        vm = self.vm("vda")
        kept = [self.add(vm, "rsync"), self.add(vm, "qcow2", says="vda since"),
                self.add(vm, "rsync", "--keep", "last=2")]
        self.check_kept(*kept)

    def test_rsync_keeps_the_base_of_an_intact_disk(self):
        lib.require("rsync")
        vm = self.vm()
        full, increment = self.add(vm, "qcow2"), self.add(vm, "qcow2", says="vda since")
        self.damage(f"{increment}/vda/dirty/last.qcow2")
        new = self.add(vm, "rsync", "--keep", "last=1")
        self.check_kept(full, increment, new, without=[(increment, "vda")])

    def test_intact_disk_of_a_damaged_backup(self):
        """Its increment is merged with its base or, if they differ in form, keeps it."""
        for form in ("qcow2", "raw"):
            self.to, self.expected, vm = self.mkdir("backups"), {}, self.vm()
            full, increment = self.add(vm, "qcow2"), self.add(vm, form, says="vda since")
            self.damage(f"{increment}/vda/dirty/last.{form}")
            new = self.add(vm, form, "--keep", "last=1", says="vda full")
            kept = [increment, new] + [full] * (form == "raw")
            self.check_kept(*kept, without=[(increment, "vda")])

    def test_damaged_archive_counts_for_no_rule(self):
        vm = self.vm("vda")
        names = [self.add(vm, "tar", "--full") for _ in range(2)]
        increment = self.add(vm, "tar", says="vda since")
        self.damage(names[1])
        names += [increment, self.add(vm, "tar", "--keep", "last=2", says="vda full")]
        self.assertEqual(sorted(n for n in self.generations() if n.endswith(".tar")), sorted(names))

    def test_base_that_was_cut_off(self):
        """An increment on it could not be restored: a full one follows."""
        for tool, file in (("qcow2", "/vda/disk.qcow2"), ("raw", "/vda/disk.raw"), ("tar", "")):
            self.to, vm = self.mkdir("backups"), self.vm("vda")
            base = self.add(vm, tool)
            for cut in (lambda size: size - 65536, lambda size: size // 2, lambda size: 4096):
                path = f"{self.to}/web/{base}{file}"
                os.chmod(path, 0o644)
                os.truncate(path, cut(os.path.getsize(path)))
                base = self.add(vm, tool, says="a full backup, because vda: its chain is broken: "
                                               r"[^\n]*\n(.*\n)*.*vda full")

    def test_base_in_pieces_that_was_cut_off(self):
        lib.require("rsync")
        vm = self.vm("vda")
        path = f"{self.to}/web/{self.add(vm, 'rsync')}/vda/split/000000"
        os.chmod(path, 0o644)
        os.truncate(path, lib.MIB)
        self.add(vm, "qcow2", says="a full backup, because vda: its chain is broken: ")

    def test_copied_base(self):
        """An increment on a backup that was copied could not be restored: a full one follows."""
        vm = self.vm("vda")
        base = self.add(vm, "qcow2")
        shutil.copytree(f"{self.to}/web/{base}", f"{self.to}/web/{base}-copy")
        new = self.add(vm, "qcow2", says="a full backup, because vda: its chain is broken: several files")
        shutil.rmtree(f"{self.to}/web/{base}-copy")
        self.check_kept(base, new)


if __name__ == "__main__":
    lib.main()
