#!/usr/bin/env python3
"""Unattended backups of domains: ten days of the timer's service, and restoring a deleted VM."""
import datetime
import os
import re
import time
import xml.etree.ElementTree as ElementTree

import guest
import lib
from libvirt_guest import GuestDomain
from libvirtd import Domain
from scripts_check import flip
from vm import Disk

BACKUP, RESTORE = (f"{lib.TOP}/contrib/fleecefs-{n}" for n in ("backup", "restore"))
CLOCK = os.environ.get("CLOCK_MODULE", "build/tests/e2e/libclock.so")
SYSLINUX_CONF = f"""SERIAL 0
DEFAULT linux
LABEL linux
    KERNEL vmlinuz
    INITRD initrd.gz
    APPEND {guest.COMMAND_LINE}
"""


class Bootable(GuestDomain):
    """A domain that boots from vda and writes to a filesystem on vdb."""

    mounted = "vdb"

    def prepare(self, test, disks):
        lib.require("syslinux", "mcopy", "mkfs.vfat")
        plain, conf = test.path("boot"), test.path("syslinux.cfg")
        with open(conf, "w") as f:
            f.write(SYSLINUX_CONF)
        lib.run("mkfs.vfat", "-C", plain, disks[0].size >> 10)
        kernel, initrd = guest.make_guest()
        lib.run("mcopy", "-i", plain, kernel, initrd, "::")
        lib.run("mcopy", "-i", plain, conf, "::syslinux.cfg")
        lib.run("syslinux", "--install", plain)
        lib.run("qemu-img", "convert", "-n", "-O", "qcow2", plain, disks[0].image)
        os.unlink(plain)
        guest.make_filesystems(test, disks[1:])
        self.machine = """<memory unit='MiB'>256</memory><cpu mode='maximum'/>
            <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>"""


class Scripts(lib.TestCase):
    def restore(self, *argv, status=0, says=".", inside=()):
        done = lib.attempt(*inside, RESTORE, *argv, env=self.env, timeout=3 * lib.PATIENCE)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertRegex(done.stdout + done.stderr, says)
        return done.stdout


class TenDays(Scripts):
    """Runs of fleecefs-backup@.service with the example backup.conf."""

    FIRST = datetime.datetime(2030, 1, 1, 6, 30, tzinfo=datetime.timezone.utc)  # a Tuesday

    def setUp(self):
        super().setUp()
        self.env = {**self.environment(), "TZ": "UTC"}
        self.to, self.metrics = self.mkdir("backups"), self.mkdir("metrics")
        self.vm = Bootable(self, [Disk(self, "vda", guest.SIZE), Disk(self, "vdb", guest.SIZE)])

    def service(self):
        """Returns the unit's command and the example's settings, for this VM."""
        with open(lib.TOP + "/contrib/systemd/fleecefs-backup@.service.in") as f:
            command = re.search(r"(?m)^ExecStart=@bindir@/(.*)$", f.read())[1]
        with open(lib.TOP + "/contrib/systemd/backup.conf") as f:
            conf = dict(line.strip().split("=", 1) for line in f if re.match("[A-Z]+=", line))
        self.assertEqual(conf["OPTIONS"], "--keep=daily=7,weekly=4,monthly=6")
        conf.update(DESTINATION=self.to, SOURCE=self.vm.source(), OPTIONS=conf["OPTIONS"] +
                    f" --metrics={self.metrics} --option=scratch={self.vm.scratch}")
        # systemd expands ${NAME} to one word.
        return re.sub(r"(\$\{\w+\})", r'"\1"', command), conf

    def run_service(self, day):
        """Runs the service as the timer does on DAY; returns its output."""
        command, conf = self.service()
        then = self.FIRST + datetime.timedelta(days=day - 1)
        done = lib.attempt("sh", "-c", f"exec {lib.TOP}/contrib/{command}", env={
            **self.env, **conf, "LD_PRELOAD": CLOCK,
            "CLOCK_SHIFT": str(round(then.timestamp() - time.time()))}, timeout=3 * lib.PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.vm.leftovers(), [])
        return done.stderr

    @property
    def folder(self):
        return f"{self.to}/{self.vm.name}"

    def days(self):
        return [int(name[6:8]) for name in sorted(os.listdir(self.folder))]

    def test_ten_days_and_back(self):
        for day in range(1, 11):
            self.vm.run(f"echo day {day} > /mnt/vdb/day; sync")
            said = self.run_service(day)
            self.assertIn("vdb full" if day == 1 else "vdb since", said)
            self.assertEqual(self.days(), list(range(max(1, day - 6), day + 1)), said)
        # Each generation that is kept restores to the state of its day.
        for name in sorted(os.listdir(self.folder)):
            image = self.path("vdb.raw")
            self.restore("-O", "raw", "-d", "vdb", "--at", name, self.folder, image)
            self.assertEqual(lib.run("debugfs", "-R", "cat /day", image), f"day {int(name[6:8])}\n")
            os.unlink(image)
        self.assertEqual(self.restore("--check", self.to).count("ok  "), 7)

        # Damage to one is found, and the next backup is full.
        name = sorted(os.listdir(self.folder))[3]
        flip(f"{self.folder}/{name}/vdb/dirty/last.qcow2")
        self.restore("--check", self.to, status=1,
                     says=f"DAMAGED  {self.vm.name}/{name}/vdb  .*"
                          "(checksum differs|qemu-img check finds errors)")
        self.vm.run("echo day 11 > /mnt/vdb/day; sync")
        self.assertRegex(self.run_service(11), "a full backup, because vdb: .*damaged")
        self.check_metrics()
        self.delete()
        self.restore_vm()

    def check_metrics(self):
        name, = os.listdir(self.metrics)
        with open(f"{self.metrics}/{name}") as f:
            said = f.read()
        then = self.FIRST + datetime.timedelta(days=10)
        ended = int(re.search(r"last_success_timestamp_seconds\{.*\} (\d+)", said)[1])
        self.assertTrue(0 <= ended - then.timestamp() < 600, said)

    def delete(self):
        """Deletes the VM, its disks and its definition in libvirt."""
        vm = self.vm
        vm.virsh("destroy", vm.name)
        vm.virsh("undefine", vm.name, "--checkpoints-metadata")
        for disk in vm.disks.values():
            os.unlink(disk.image)

    def restore_vm(self):
        vm, target = self.vm, self.mkdir("images")
        self.restore("--define", "--connect", vm.libvirtd.uri(), self.folder, target,
                     says=f"{vm.name} is defined; start it with: virsh --connect \\S+ start '{vm.name}'")
        self.assertEqual(vm.virsh("domuuid", vm.name), vm.uuid)
        # The second time, a domain of that name exists.
        self.restore("--define", "--connect", vm.libvirtd.uri(), self.folder, target, status=1,
                     says=f"libvirt already has a domain {vm.name}: .*--name NAME --uuid new")
        vm.virsh("start", vm.name, "--paused")
        vm.boot()
        self.assertEqual(vm.run("cat /mnt/vdb/day"), "day 11\n")


class Define(Scripts):
    """Complete domains that are shut off. Runs in libvirtd's mount namespace, where their files are."""

    def setUp(self):
        super().setUp()
        self.env, self.to = self.environment(), self.mkdir("backups")
        self.images = self.path("images")

    def domain(self, devices=""):
        nvram = self.path("VARS.fd")
        with open(nvram, "wb") as f:
            f.write(os.urandom(131072))
        with open(self.path("CODE.fd"), "wb") as f:
            f.truncate(131072)

        class Firmware(Domain):
            machine = f"""<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type>
                <loader readonly='yes' type='pflash'>{f.name}</loader><nvram>{nvram}</nvram></os>
                <features><acpi/></features>"""

            def start(self):
                """The domain stays shut off."""
        self.nvram = nvram
        vm = Firmware(self, [Disk(self, n, lib.MIB) for n in ("vda", "vdb")], devices=devices)
        for disk in vm.disks.values():
            lib.run("qemu-io", "-c", "write -P 7 64k 4k", disk.image)
            disk.model[65536:69632] = b"\7" * 4096
        self.inside = ["nsenter", "--mount", "--pid", "--target", lib.children(vm.libvirtd.init.pid)[0]]
        return vm

    def backup(self, vm, *options, source=None):
        done = lib.attempt(*self.inside, BACKUP, "-c", vm.libvirtd.uri(), *options, "qcow2", self.to,
                           *([source] if source else []), env=self.env, timeout=2 * lib.PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def defined(self, vm, name):
        self.defer(lib.attempt, "virsh", "-c", vm.libvirtd.uri(), "undefine", name, "--nvram")
        return ElementTree.fromstring(vm.virsh("dumpxml", "--inactive", name))

    def define(self, vm, *options, **kwargs):
        return self.restore("--define", "-c", vm.libvirtd.uri(), *options, self.to + "/" + vm.name,
                            self.images, inside=self.inside, **kwargs)

    def check_disk(self, vm, path):
        plain = self.path("plain")
        lib.run("qemu-img", "convert", "-O", "raw", path, plain)
        with open(plain, "rb") as f:
            self.assertTrue(f.read() == vm.disks["vda"].model)

    def test_a_copy(self):
        vm = self.domain("<interface type='user'><mac address='52:54:00:11:22:33'/></interface>")
        self.backup(vm, source="libvirt:" + vm.name)
        self.define(vm, status=1, says="libvirt already has a domain")
        self.define(vm, "--name", "a copy", status=1, says=f"libvirt already has a domain {vm.uuid}")
        self.assertFalse(os.path.exists(self.images))
        self.define(vm, "--name", "a copy", "--uuid", "new", "-O", "raw", says="a copy is defined")
        root = self.defined(vm, "a copy")
        self.assertNotEqual(root.findtext("uuid"), vm.uuid)
        self.assertNotEqual(root.find("devices/interface/mac").get("address"), "52:54:00:11:22:33")
        path = root.find("devices/disk/source").get("file")
        self.assertEqual(path, f"{self.images}/a copy-vda.raw")
        self.assertEqual(root.find("devices/disk/driver").get("type"), "raw")
        self.check_disk(vm, path)
        with open(root.findtext("os/nvram"), "rb") as new, open(self.nvram, "rb") as old:
            self.assertEqual(new.name, f"{self.images}/a copy_VARS.fd")
            self.assertTrue(new.read() == old.read())

    def test_tpm(self):
        lib.require("swtpm", "swtpm_setup")
        vm = self.domain("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
        state = f"/var/lib/libvirt/swtpm/{vm.uuid}"
        lib.run(*self.inside, "sh", "-c", f"mkdir -p {state}/tpm2; echo secret > {state}/tpm2/tpm2-00.permall")
        self.backup(vm, source="libvirt:" + vm.name)
        vm.virsh("undefine", vm.name, "--nvram")
        lib.run(*self.inside, "rm", "-rf", state)
        # An archive member that is not a regular file is refused, and so is the VM.
        folder = f"{self.to}/{vm.name}"
        archive = f"{folder}/{os.listdir(folder)[0]}/vm.tpm.tar"
        os.rename(archive, archive + ".good")
        odd = self.mkdir("odd")
        os.symlink("/etc", odd + "/tpm2")
        lib.run("tar", "-cf", archive, "-C", odd, ".")
        self.check_refused(vm, "vm.tpm.tar contains tpm2, which is not a regular file")
        self.assertEqual(lib.attempt(*self.inside, "test", "-e", state).returncode, 1)
        os.rename(archive + ".good", archive)
        self.define(vm)
        self.assertEqual(lib.run(*self.inside, "cat", f"{state}/tpm2/tpm2-00.permall"), "secret\n")
        self.assertEqual(self.defined(vm, vm.name).findtext("uuid"), vm.uuid)

    def test_what_fails_leaves_nothing(self):
        vm = self.domain()
        self.backup(vm, source="libvirt:" + vm.name)
        folder = f"{self.to}/{vm.name}"
        path = f"{folder}/{os.listdir(folder)[0]}/vm.xml"
        vm.virsh("undefine", vm.name, "--nvram")
        with open(path) as f:
            good = f.read()
        for bad, says in ((good.replace("<memory unit='KiB'>", "<memory unit='x'>"), "virsh has failed"),
                          (good[:-20], "vm.xml is damaged"), ("<a/>", "not a domain definition"),
                          (good.replace("'vdb'", "'vdx'"), "has no disk vdb")):
            os.chmod(path, 0o644)
            with open(path, "w") as f:
                f.write(bad)
            self.check_refused(vm, says)
        with open(path, "w") as f:
            f.write(good)
        for words, status, says in (
                (["-c", "nosuch://x", folder, self.images], 1, "fleecefs-restore: virsh has failed: "),
                ([folder, path], 1, f"fleecefs-restore: {path} is not a folder"),
                (["--name=a/b", folder, self.images], 2, "error: 'a/b': the name of a domain cannot contain"),
                (["--name=", folder, self.images], 2, "or --name is empty")):
            self.restore("--define", *words, status=status, says=says, inside=self.inside)
            self.assertFalse(os.path.exists(self.images))
        nvram = os.path.dirname(path) + "/vm.nvram"
        os.unlink(nvram)
        os.symlink("/etc/hostname", nvram)
        self.check_refused(vm, "vm.nvram is damaged: it is a symbolic link")

    def check_refused(self, vm, says):
        self.define(vm, status=1, says=says)
        self.assertFalse(os.path.exists(self.images))

    def test_marks(self):
        """Metadata that excludes disks, or domains from --all."""
        first, second = self.domain(), self.domain()
        mark = ["metadata", first.name, "urn:fleecefs:backup", "--key", "fleecefs", "--config", "--set"]
        first.virsh(*mark, '<backup><exclude disk="vdb"/></backup>')
        self.backup(first, "--all")
        for vm, disks in ((first, ["vda"]), (second, ["vda", "vdb"])):
            folder = f"{self.to}/{vm.name}"
            generation, = os.listdir(folder)
            self.assertEqual(sorted(d for d in os.listdir(f"{folder}/{generation}")
                                    if d.startswith("vd")), disks)
        # Restoring the VM reports the excluded disk.
        first.virsh("undefine", first.name, "--nvram")
        self.restore("--define", "-c", first.libvirtd.uri(), f"{self.to}/{first.name}", self.images,
                     inside=self.inside, says="vdb was not backed up and still refers to /")
        self.defined(first, first.name)
        first.virsh(*mark, "<backup><exclude/></backup>")
        self.assertNotIn(first.name + ":", self.backup(first, "--all"))
        self.assertIn(first.name + ":", self.backup(first, source="libvirt:" + first.name))
        said = self.backup(first, "--all", "-x", second.name, source="libvirt:" + first.name)
        self.assertNotIn(second.name + ":", said)


if __name__ == "__main__":
    lib.main()
