"""The compared ways to read an NBD disk as a file, and helpers for measurements."""
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import lib  # noqa: E402
from lib import GIB, KIB, MIB  # noqa: E402, F401

# Servers read from memory, so that the speed of disks does not matter.
if os.path.isdir("/dev/shm"):
    tempfile.tempdir = "/dev/shm"

TICK = os.sysconf("SC_CLK_TCK")


class Bench(lib.TestCase):
    """Context manager: a folder, servers and mounts, which end with the block."""

    def __enter__(self):
        self.setUp()
        return self

    def __exit__(self, *_):
        self.doCleanups()

    def dense(self, size):
        """Creates a raw image without zeros or repetition, so that nothing can be skipped."""
        path = self.path("dense.raw")
        piece = os.urandom(64 * MIB)
        with open(path, "wb") as f:
            for at in range(0, size, len(piece)):
                f.write(piece[:size - at])
        return path


class Way:
    """A disk readable at PATH; PIDS are the processes that serve it, including the NBD server."""

    def __init__(self, path, pids):
        self.path, self.pids = path, pids

    def cpu(self):
        """Returns the CPU seconds that these used so far."""
        total = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK


def fleecefs(bench, server, *options, name="default/disk.raw"):
    mount = bench.mount(server.uri, options=options)
    return Way(mount / name, [mount.pid, server.process.pid])


def nbdfuse(bench, server):
    point, pidfile = bench.mkdir("nbdfuse"), bench.path("nbdfuse.pid")
    process = subprocess.Popen(["nbdfuse", "--pidfile", pidfile, point + "/disk", server.uri],
                               preexec_fn=lib.die_with_us)
    bench.defer(process.wait)
    # Sometimes it keeps running after the unmount.
    bench.defer(process.kill)
    bench.defer(subprocess.run, ["fusermount3", "-u", point])
    lib.wait_for_file(pidfile, process)
    return Way(point + "/disk", [process.pid, server.process.pid])


def qemu_fuse(bench, blockdev, server=None):
    """QEMU's FUSE export of BLOCKDEV, a dict for --blockdev."""
    point, pidfile = bench.path("qemu-fuse"), bench.path("qsd.pid")
    open(point, "w").close()
    lib.run("qemu-storage-daemon", "--daemonize", "--pidfile", pidfile,
            "--blockdev", json.dumps({"node-name": "n", "read-only": True, **blockdev}),
            "--export", json.dumps({"type": "fuse", "id": "f", "node-name": "n",
                                    "mountpoint": point}), stdout=None, stderr=None)
    with open(pidfile) as f:
        pid = int(f.read())
    pidfd = os.pidfd_open(pid)
    bench.defer(lib.wait_gone, pidfd, "qemu-storage-daemon")
    bench.defer(os.kill, pid, 15)
    return Way(point, [pid] + ([server.process.pid] if server else []))


def qemu_fuse_nbd(bench, server):
    return qemu_fuse(bench, {"driver": "nbd",
                             "server": {"type": "unix", "path": server.path}}, server)


class Nbdcopy(Way):
    """Not a file: nbdcopy to null, the maximum speed of the server."""

    def __init__(self, server):
        super().__init__(None, [server.process.pid])
        self.uri = server.uri


def forget(path):
    """Drops the file's pages from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def touch(size):
    """Allocates and frees SIZE bytes of memory, or what is free: the host of this virtual machine may have
    to allocate memory on first use, which takes longer than what is measured. Returns the number of
    bytes."""
    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) * KIB for line in f if line.startswith("MemFree:"))
    size = min(size, free - free // 8) // MIB * MIB
    if size > 0:
        with mmap.mmap(-1, size) as area:
            for at in range(0, size, MIB):
                area[at:at + MIB] = b"\1" * MIB
    return size


def timed(argv):
    """Runs a command; returns wall and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run([str(a) for a in argv], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def read_all(way, direct=False):
    """Reads the whole disk; returns wall and CPU seconds of all processes."""
    if way.path is None:
        argv = ["nbdcopy", way.uri, "null:"]
    else:
        forget(way.path)
        argv = ["dd", f"if={way.path}", "of=/dev/null", "bs=1M", "status=none"]
        argv += ["iflag=direct"] if direct else []
    cpu = way.cpu()
    took, own = timed(argv)
    return took, own + way.cpu() - cpu


def fio(path, threads, seconds, **options):
    """Random 4 KiB O_DIRECT reads; returns reads per second, median and 99th percentile in seconds."""
    argv = ["fio", "--name=r", "--filename=" + path, "--rw=randread", "--bs=4k", "--direct=1",
            "--ioengine=psync", "--thread", f"--numjobs={threads}", "--group_reporting",
            "--time_based", f"--runtime={seconds}", "--readonly", "--randrepeat=0",
            "--output-format=json", *(f"--{k}={v}" for k, v in options.items())]
    read = json.loads(lib.run(*argv))["jobs"][0]["read"]
    percentile = read["clat_ns"]["percentile"]
    return read["iops"], percentile["50.000000"] / 1e9, percentile["99.000000"] / 1e9


def sleeps(count=20000):
    """Returns median and 99th percentile, in seconds, of sleeps of 60 us."""
    program = ("import time\ntook = []\n"
               f"for _ in range({count}):\n"
               "    began = time.perf_counter()\n    time.sleep(60e-6)\n"
               "    took.append(time.perf_counter() - began)\n"
               "took.sort()\nprint(took[len(took) // 2], took[len(took) * 99 // 100])")
    return tuple(map(float, lib.run(sys.executable, "-c", program).split()))


def cached(path):
    """Returns the number of the file's bytes in the page cache."""
    return int(lib.run("fincore", "--bytes", "--noheadings", "--output", "RES", path))


class Cgroup:
    """Processes limited to LIMIT bytes of memory in total, including page cache. Raises OSError if
    cgroups are unavailable."""

    def __init__(self, bench, limit):
        version1 = os.path.isdir("/sys/fs/cgroup/memory")
        if version1:
            with open("/proc/self/cgroup") as f:
                ours = next(line for line in f if ":memory:" in line).split(":")[2].strip("/\n")
            parent = os.path.join("/sys/fs/cgroup/memory", ours)
        else:
            parent = "/sys/fs/cgroup"
            self.write(parent + "/cgroup.subtree_control", "+memory")
        self.path = os.path.join(parent, f"fleecefs-bench-{os.getpid()}")
        os.mkdir(self.path)
        bench.defer(os.rmdir, self.path)
        self.write(self.path + ("/memory.limit_in_bytes" if version1 else "/memory.max"), limit)

    @staticmethod
    def write(path, what):
        with open(path, "w") as f:
            f.write(str(what))

    def run(self, argv):
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       preexec_fn=lambda: self.write(self.path + "/cgroup.procs", os.getpid()))


def memory(pid, key="VmRSS"):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * KIB for line in f if line.startswith(key + ":"))
