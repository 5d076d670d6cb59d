"""Linux guests with a running workload, for the tests of QEMU's and libvirt's VMs."""
import base64
import os
import re
import shutil
import time
import unittest

import lib
from qmp_mount import Chain

CACHE = os.environ.get("GUEST_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fleecefs", "guest")
SIZE = 64 * lib.MIB
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off"
# Writes to both disks in turn, forever: a snapshot is consistent if the first disk has as many
# lines as the second, or one more.
WORKER = """
while :; do
    echo line >> /mnt/vda/count; echo line >> /mnt/vdb/count
    dd if=/dev/urandom of=/mnt/vda/noise bs=4k count=8 seek=$((RANDOM % 512)) conv=notrunc
    sleep 0.1
done 2>/dev/null
"""


def make_guest():
    """Returns the paths of the guest's kernel and initrd, which are made once and cached."""
    lib.require("mkfs.ext4", "debugfs", "busybox", "cpio", "depmod", "apt-get")
    done = lib.attempt(os.path.join(os.path.dirname(__file__), "mkguest"), CACHE, timeout=300)
    if done.returncode == 77 and not lib.CI:
        raise unittest.SkipTest(done.stderr.strip())
    if done.returncode != 0:
        raise AssertionError(f"mkguest: exit status {done.returncode}\n{done.stderr}")
    return f"{CACHE}/vmlinuz", f"{CACHE}/initrd.gz"


def make_filesystems(test, disks):
    for disk in disks:
        plain = test.path("ext4")
        lib.run("mkfs.ext4", "-q", plain, f"{disk.size >> 10}k")
        lib.run("qemu-img", "convert", "-n", "-O", disk.format, plain, disk.image)
        os.unlink(plain)


class Guest:
    """Actions in a guest; subclasses have agent(COMMAND, **arguments), which returns the reply."""

    def begin_script(self, script):
        return self.agent("guest-exec", path="/bin/sh", arg=["-ec", script],
                          capture_output=True)["pid"]

    def run(self, script):
        """Runs a shell script and returns its stdout."""
        pid, deadline = self.begin_script(script), time.monotonic() + 2 * lib.PATIENCE
        while not (status := self.agent("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                raise AssertionError(f"the guest has not run after {2 * lib.PATIENCE} s: {script}")
            # The agent has no event for this, and polling takes time of the guest's only CPU.
            time.sleep(0.01)
        out, err = (base64.b64decode(status.get(k, "")).decode() for k in ("out-data", "err-data"))
        if status.get("exitcode") != 0:
            raise AssertionError(f"{script}: {status}\n{err}")
        return out

    def change(self, round_):
        """Changes files on both disks without sync: the freeze must write them out."""
        self.run(f"""
            for disk in vda vdb; do
                mkdir -p /mnt/$disk/keep; cd /mnt/$disk/keep
                for i in 1 2 3 4; do
                    mkdir -p dir$i
                    head -c $((i * 100000 + {round_})) /dev/urandom > dir$i/round{round_}
                done
                if test {round_} -gt 1; then
                    rm dir1/round{round_ - 1}
                    mv dir2/round{round_ - 1} moved{round_}
                    echo changed | dd of=dir3/round{round_ - 1} bs=1 seek=150000 conv=notrunc
                fi
            done 2>/dev/null
            """)

    def files(self):
        """Returns the SHA-256 sums of the files on each disk."""
        listed = self.run("""
            for disk in vda vdb; do
                cd /mnt/$disk/keep; find . -type f -exec sha256sum {} + | sed "s/^/$disk /"
            done""")
        found = {}
        for disk, digest, name in map(str.split, listed.splitlines()):
            found.setdefault(disk, {})[name] = digest
        return found


class GuestTest:
    """Tests of `self.vm`, a Guest with the disks vda and vdb."""

    def begin(self, *options):
        mount = self.mount(self.vm.source(), env=self.vm.environment(), options=[
            "-v", "-o", "freeze_timeout=60", *self.vm.mount_options(), *options])
        print("\n" + re.search("snapshot taken in .*", mount.output())[0], end=" ", flush=True)
        for disk in mount.json(".fleecefs/status.json")["exports"]:
            # The snapshot was taken while the guest was frozen, and writes were held only then.
            self.assertTrue(0 < disk["held_ms"] <= disk["frozen_ms"] < disk["begin_ms"], disk)
        return mount

    def end(self, mount, command):
        done = self.fleecefs(command, mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()
        self.assertEqual(self.vm.leftovers(), [])
        self.check_thawed()

    def check_thawed(self):
        self.assertEqual(self.vm.agent("guest-fsfreeze-status"), "thawed")

    def check(self, image, expected):
        """Checks that IMAGE is a clean filesystem with the EXPECTED files; returns its line count."""
        lib.run("e2fsck", "-fn", image)
        # Without a freeze, some data would be only in the journal.
        self.assertNotIn("needs_recovery", lib.run("dumpe2fs", "-h", image))
        out = self.mkdir("files")
        lib.run("debugfs", "-R", f'rdump /keep /count "{out}"', image)
        names = lib.run("find", ".", "-type", "f", cwd=f"{out}/keep").split()
        sums = lib.run("sha256sum", *names, cwd=f"{out}/keep")
        self.assertEqual({n: s for s, n in map(str.split, sums.splitlines())}, expected)
        with open(f"{out}/count") as f:
            lines = f.read().splitlines()
        shutil.rmtree(out)
        self.assertEqual(set(lines), {"line"})
        return len(lines)

    def check_backups(self, backups, expected):
        counts = []
        for name, (raw, images) in backups.items():
            plain = self.path("plain")
            lib.run("qemu-img", "convert", "-O", "raw", images[-1], plain)
            lib.run("cmp", raw, plain)
            os.unlink(plain)
            counts.append(self.check(raw, expected[name]))
        # All disks have the same point in time.
        self.assertIn(counts[0] - counts[1], (0, 1))
        self.assertGreater(counts[0], 0)

    def back_up_at_work(self):
        """Backups under load, one of them aborted: all are complete, and none has later data."""
        vm = self.vm
        chains = {name: Chain(self, name) for name in vm.disks}
        vm.begin_script(WORKER)
        dirty = {}
        for round_, how in enumerate(("--commit", "--commit", "--abort", "--commit"), 1):
            vm.change(round_)
            expected = vm.files()
            mount = self.begin()
            self.check_thawed()
            self.assertEqual({mount.json(f"{n}/info.json")["mode"] for n in vm.disks},
                             {"incremental" if round_ > 1 else "full"})
            # Files change during the backup, in allocated and in unallocated blocks.
            vm.run(f"""
                for disk in vda vdb; do
                    cd /mnt/$disk/keep; rm -r dir4; head -c 300000 /dev/urandom > dir1/round{round_}
                done; sync""")
            backups = {name: chain.copy(mount) for name, chain in chains.items()}
            self.check_backups(backups, expected)
            if round_ > 1:
                dirty[round_] = sum(d["wanted_bytes"]
                                    for d in mount.json(".fleecefs/status.json")["exports"])
            self.end(mount, how)
            if how == "--commit":
                for name, chain in chains.items():
                    chain.keep(backups[name])
        # After the failed run, the next increment includes its changes.
        self.assertGreaterEqual(dirty[4], dirty[3])
