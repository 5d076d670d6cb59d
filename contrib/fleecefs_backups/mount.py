# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mount of a VM during its backup."""
import fcntl
import json
import os
import re
import subprocess
import sys

from . import machine, stored
from .commands import FLEECEFS, Failed, interruptible, run, unblock
from .text import human, printable


# Options of fleecefs that must not be passed on to it.
OURS = {"series": "--series=NAME gives the series", "full": "--full takes full backups",
        "debug": "fleecefs would stay in the foreground"}


def refusal_of(args):
    """Returns why fleecefs would refuse the options given for it, or None. It checks all of them before
    it prints its help."""
    for option in (o for text in args.option for o in re.split(r"(?<!\\),", text)):
        if why := OURS.get(option.split("=")[0]):
            return f"-o {option}: {why}"
    try:
        done = subprocess.run(
            [FLEECEFS, *(f"--option={o}" for o in args.option), f"--series={args.series}",
             *([f"--rate={args.rate}"] if args.rate is not None else []), "--help"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=unblock)
    except OSError:
        return None  # each VM reports it
    return done.stderr.decode("utf-8", "surrogateescape").strip().removeprefix("fleecefs: ") \
        if done.returncode == 2 else None


def default_folder():
    """Returns the folder for the mount points; cron sets no XDG_RUNTIME_DIR."""
    parent = "/run"
    if os.geteuid() != 0:
        parent = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        if not os.path.isdir(parent):
            parent = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(parent, "fleecefs-backup")


class Mount:
    """The mount of a VM: always at the same folder, with a lock that running tools also hold."""

    def __init__(self, vm, has_bar):
        """VM: a Source; HAS_BAR: show progress on a terminal."""
        folder = os.environ.get("RUNTIME_DIRECTORY") or default_folder()
        if not os.path.isabs(folder):
            raise Failed(f"RUNTIME_DIRECTORY is '{folder}', not an absolute path" if
                         "RUNTIME_DIRECTORY" in os.environ else
                         f"{folder} is not an absolute path; set RUNTIME_DIRECTORY to a folder for the "
                         "mount points")
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
            raise Failed("a backup of it is already running") from None
        self.end("--abort")  # of a run that was killed

    def begin(self, source, options):
        """Mounts SOURCE; returns info.json of each of its disks by name."""
        os.makedirs(self.path, exist_ok=True)
        if run(FLEECEFS, *options, source, self.path, stoppable=False) != 0:
            raise Failed("no snapshot could be taken")
        disks = {}
        with interruptible():
            for name in sorted(os.listdir(self.path)):
                if name != ".fleecefs":
                    with open(os.path.join(self.path, name, "info.json")) as f:
                        disks[name] = json.load(f)
        return disks

    def missing(self):
        """Returns the names of the VM's disks that have data but are not in the mount."""
        with interruptible(), open(os.path.join(self.path, ".fleecefs/status.json")) as f:
            return json.load(f).get("missing_disks", [])

    def capture(self, vm):
        """Writes files with the state of VM other than its disks; tools save them, too."""
        self.vm_files = [stored.VM_FILE, *machine.capture(vm, self.folder)]

    def describe(self, said):
        """Writes SAID to vm.json, the first of these files."""
        with open(os.path.join(self.folder, stored.VM_FILE), "w") as f:
            json.dump(said, f)

    def is_mounted(self):
        """True even if the mount no longer responds."""
        with open("/proc/self/mounts", "rb") as f:
            points = [line.split(b" ")[1] for line in f]
        path = os.path.realpath(os.path.dirname(self.path)) + "/mnt"
        # The kernel escapes space, tab, newline and backslash in octal.
        return os.fsencode(path) in (
            re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), p) for p in points)

    def end(self, how):
        """Commits or aborts the mounted snapshot, if any; returns the exit status."""
        # Not os.path.ismount(), which would wait for a daemon that is stopped.
        if self.is_mounted():
            status = run(FLEECEFS, how, self.path, stoppable=False)
        else:
            # Unmounting it without --commit has aborted it.
            status = 1 if how == "--commit" else 0
        if how == "--abort" and self.is_mounted():
            # A daemon that died leaves its mount, and state in the VM that the next run cleans up.
            run("fusermount3", "-uz", self.path, stoppable=False)
        return status

    def run(self, *argv, **kwargs):
        """Runs a tool, with a progress bar on a terminal; raises Failed if it fails."""
        try:
            status = run(*argv, idle=self.show if self.has_bar else None,
                         pass_fds=[self.lock.fileno()], **kwargs)
        finally:
            if self.has_bar:
                sys.stderr.write("\r\033[K")
        if status != 0:
            raise Failed(f"{argv[0]} has failed: exit status {status}")

    def show(self):
        try:
            with interruptible(), open(os.path.join(self.path, ".fleecefs/status.json")) as f:
                disks = json.load(f)["exports"]
        except (OSError, ValueError, KeyError):
            return
        # The wanted amount is known only of disks that have been accessed.
        wanted = sum(d.get("wanted_bytes", 0) for d in disks) or 1
        done = sum(d.get("covered_bytes", 0) for d in disks)
        bar = "#" * (done * 40 // wanted)
        sys.stderr.write(f"\r\033[K{printable(self.vm)} [{bar:40}] {human(done)} of {human(wanted)}")
        sys.stderr.flush()
