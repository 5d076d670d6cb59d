# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a VM is mounted while it is backed up."""
import fcntl
import json
import os
import re
import sys

from . import machine, stored
from .commands import FLEECEFS, Failed, run
from .text import human, printable


class Mount:
    """Where a VM is mounted: always the same folder, under a lock that running tools hold too."""

    def __init__(self, vm, has_bar):
        """VM: a Source; HAS_BAR: show progress on a terminal."""
        run_dir = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
        folder = os.environ.get("RUNTIME_DIRECTORY") or os.path.join(run_dir, "fleecefs-backup")
        if not os.path.isabs(folder):
            raise Failed("XDG_RUNTIME_DIR is not set")
        folder = os.path.join(folder, vm.file)
        self.vm, self.path = vm.name, os.path.join(folder, "mnt")
        self.folder, self.vm_files = folder, [stored.VM_FILE]
        self.has_bar = has_bar and sys.stderr.isatty()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.lock = open(os.path.join(folder, "lock"), "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.lock.close()
            raise Failed("a backup of it runs already") from None
        self.end("--abort")  # of a run that was killed

    def begin(self, source, options):
        """Mounts SOURCE; returns info.json of each of its disks by name."""
        os.makedirs(self.path, exist_ok=True)
        if run(FLEECEFS, *options, source, self.path, stoppable=False) != 0:
            raise Failed("no snapshot could be taken")
        disks = {}
        for name in sorted(os.listdir(self.path)):
            if name != ".fleecefs":
                with open(os.path.join(self.path, name, "info.json")) as f:
                    disks[name] = json.load(f)
        return disks

    def capture(self, vm):
        """Has files that tell what VM is beside its disks, which tools save too."""
        self.vm_files = [stored.VM_FILE, *machine.capture(vm, self.folder)]

    def describe(self, said):
        """Has vm.json, the first of these, say it."""
        with open(os.path.join(self.folder, stored.VM_FILE), "w") as f:
            json.dump(said, f)

    def is_mounted(self):
        """Also if what is mounted no longer answers."""
        with open("/proc/self/mounts", "rb") as f:
            points = [line.split(b" ")[1] for line in f]
        path = os.path.realpath(os.path.dirname(self.path)) + "/mnt"
        # The kernel writes space, tab, newline and backslash in octal.
        return os.fsencode(path) in (
            re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), p) for p in points)

    def end(self, how):
        """Commits or aborts what is mounted, if anything is; returns the exit status."""
        status = 0
        if os.path.ismount(self.path):
            status = run(FLEECEFS, how, self.path, stoppable=False)
        if how == "--abort" and self.is_mounted():
            # A daemon that has died leaves its mount, and in the VM what the next run puts back.
            run("fusermount3", "-uz", self.path, stoppable=False)
        return status

    def run(self, *argv, **kwargs):
        """Runs a tool, with a progress bar on a terminal; one that fails fails the VM."""
        try:
            status = run(*argv, idle=self.show if self.has_bar else None,
                         pass_fds=[self.lock.fileno()], **kwargs)
        finally:
            if self.has_bar:
                sys.stderr.write("\r\033[K")
        if status != 0:
            raise Failed(f"{argv[0]} has failed: exit status {status}")

    def show(self):
        with open(os.path.join(self.path, ".fleecefs/status.json")) as f:
            disks = json.load(f)["exports"]
        # What is wanted is known of disks that somebody has looked into.
        wanted = sum(d.get("wanted_bytes", 0) for d in disks) or 1
        done = sum(d.get("covered_bytes", 0) for d in disks)
        bar = "#" * (done * 40 // wanted)
        sys.stderr.write(f"\r\033[K{printable(self.vm)} [{bar:40}] {human(done)} of {human(wanted)}")
        sys.stderr.flush()
