"""A cgroup with a limit of processes and threads, which holds for root, too."""
import os
import subprocess
import time

import lib


class Pids:
    """A cgroup of TEST, which is skipped without the right to make one. Removed at the test's end."""

    def __init__(self, test):
        try:
            self.path = self._make(test)
        except OSError as error:
            test.skipTest(f"no cgroup for processes: {error}")

    @staticmethod
    def _make(test):
        parent = "/sys/fs/cgroup"
        if os.path.isdir(parent + "/pids"):
            with open("/proc/self/cgroup") as f:
                ours = next((line for line in f if ":pids:" in line), ":pids:/")
            parent = os.path.join(parent, "pids", ours.split(":", 2)[2].strip("/\n"))
        else:
            Pids._write(parent + "/cgroup.subtree_control", "+pids")
        path = os.path.join(parent, f"fleecefs-test-{os.getpid()}-{os.path.basename(test.path('pids'))}")
        os.mkdir(path)
        test.defer(lib.attempt, "rmdir", path)
        Pids._write(path + "/pids.max", "max")
        return path

    @staticmethod
    def _write(path, what):
        with open(path, "w") as f:
            f.write(str(what))

    def limit(self, most):
        """Allows MOST processes and threads, or "max"."""
        self._write(self.path + "/pids.max", most)

    def members(self):
        with open(self.path + "/cgroup.procs") as f:
            return [int(pid) for pid in f]

    def wait_empty(self):
        deadline = time.monotonic() + lib.PATIENCE
        while self.members():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.members()} have not ended")
            time.sleep(0.05)

    def attempt(self, *argv, **kwargs):
        """Runs a command in it, like lib.attempt()."""
        return subprocess.run(["sh", "-c", f'echo $$ >"{self.path}/cgroup.procs" && exec "$@"', "sh", *argv],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=lib.PATIENCE, **kwargs)
