"""Shared by the end-to-end tests: temporary folders, servers, mounts.

Everything a test starts is registered for cleanup, and ends with the test, or with the test program
however that ends. Servers get a listening socket, so clients can connect at once, and nothing here
waits for time to pass.
"""
import atexit
import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A command line, which may begin with a wrapper such as valgrind.
FLEECEFS = shlex.split(os.environ.get("FLEECEFS") or TOP + "/build/src/fleecefs")
# A build with sanitizers: memory use is meaningless.
SANITIZED = any(word in FLEECEFS[0] for word in ("asan", "tsan"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
CI = os.environ.get("CI") == "true"
# Longer than any step of a test takes: beyond it, the step hangs.
PATIENCE = 120

_at_exit = contextlib.ExitStack()
atexit.register(_at_exit.close)


def _on_sigterm(*_):
    """On timeout: reports where, and cleans up without waiting for threads, which may hang."""
    faulthandler.dump_traceback()
    _at_exit.close()
    os._exit(1)


signal.signal(signal.SIGTERM, _on_sigterm)
# nohup ignores it, and child processes would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def require(*tools):
    """Skips the test if one of TOOLS is missing; in CI that is a failure."""
    missing = [t for t in tools if not shutil.which(t)]
    if missing:
        message = "missing: " + ", ".join(missing)
        if CI:
            raise AssertionError(message)
        raise unittest.SkipTest(message)


def attempt(*argv, timeout=PATIENCE, **kwargs):
    """Runs a command, ignoring its exit status; returns the subprocess result."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    kwargs = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    return subprocess.run([str(a) for a in argv], timeout=timeout, **kwargs)


def run(*argv, **kwargs):
    """Runs a command and returns its stdout; a failure shows its output."""
    done = attempt(*argv, **kwargs)
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, argv))}: exit status {done.returncode}\n"
                             f"{done.stdout}{done.stderr or ''}")
    return done.stdout


libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 0x40000, 2
# Subreaper: daemons become children of the test program, which gets their exit status.
libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_us():
    """For a child, before exec: get killed when the test program ends, in whatever way."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_gone(pidfd, what, timeout=PATIENCE):
    """Waits for the process behind PIDFD (from os.pidfd_open) to end."""
    if not select.select([pidfd], [], [], timeout)[0]:
        with open(f"/proc/self/fdinfo/{pidfd}") as f:
            pid = next(line.split()[1] for line in f if line.startswith("Pid:"))
        where = []
        for name in ("cmdline", "wchan", "stack"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}") as f:
                where.append(f.read().replace("\0", " "))
        raise AssertionError("\n".join([f"{what} has not ended after {timeout} seconds:", *where]))


def wait_for_file(path, process=None, timeout=PATIENCE):
    """Waits until the file at PATH is there and not empty; fails early if PROCESS ends."""
    notify, pidfds = libc.inotify_init(), [os.pidfd_open(process.pid)] if process else []
    try:
        # IN_CLOSE_WRITE | IN_MOVED_TO
        if libc.inotify_add_watch(notify, os.path.dirname(path).encode(), 0x8 | 0x80) < 0:
            raise OSError(ctypes.get_errno(), path)
        while not os.path.exists(path) or os.stat(path).st_size == 0:
            ready = select.select([notify, *pidfds], [], [], timeout)[0]
            if notify not in ready:
                raise AssertionError(f"{path}: not there, and {'ended' if ready else 'silent'}: "
                                     f"{shlex.join(process.args if process else [])}")
            os.read(notify, 65536)
    finally:
        for fd in (notify, *pidfds):
            os.close(fd)


def children(pid):
    """Process ids of the children of PID."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as f:
            if int(f.read().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry))
    return found


def is_mounted(path):
    """Whether PATH is a mount point, even if the mount no longer responds."""
    path = re.sub(r"[ \t\n\\]", lambda m: f"\\{ord(m[0]):03o}", os.path.abspath(path))
    with open("/proc/self/mounts") as f:
        return any(line.split(" ")[1] == path for line in f)


def private_mounts():
    """Gives this program a mount namespace without the fleecefs mounts of other tests.

    There --list disturbs none of them: a mount whose status is being read is busy. Copies of them in
    the namespace would keep their daemons from ending. Does nothing without root.
    """
    if os.geteuid() != 0:
        return
    for name, value in (("unshare", (CLONE_NEWNS,)),
                        ("mount", (None, b"/", None, MS_REC | MS_PRIVATE, None))):
        if getattr(libc, name)(*value) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    with open("/proc/self/mounts", "rb") as f:
        mounts = [line.split(b" ")[1:3] for line in f]
    for point, kind in mounts:
        if kind == b"fuse.fleecefs":
            # Not umount(8), which asks the file system: its daemon may be stopped.
            point = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), point)
            libc.umount2(point, MNT_DETACH)


def read_direct(path, length=4096, offset=0):
    """Reads, bypassing the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


class Server:
    """An NBD server on a listening socket passed as systemd does (LISTEN_FDS).

    `uri` reaches its default export, `export_uri(name)` a named one.
    """

    def __init__(self, test, argv, tcp=False):
        self.argv = [str(a) for a in argv]
        listener = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        if tcp:
            listener.bind(("127.0.0.1", 0))
            self._prefix, self._suffix = "nbd://127.0.0.1:%d/" % listener.getsockname()[1], ""
        else:
            self.path = test.path("nbd.sock")
            listener.bind(self.path)
            self._prefix, self._suffix = "nbd+unix:///", "?socket=" + self.path
        listener.listen(64)
        self.address = listener.getsockname()
        self.log = test.path("server.log")
        with listener, open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                # LISTEN_PID must be $$, which exec keeps.
                ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *self.argv],
                # Python sets O_CLOEXEC on its descriptors; 3 may be in use in this process.
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False,
                env={**os.environ, "LISTEN_FDS": "1", "TMPDIR": test.dir},
                preexec_fn=self._prepare(listener.fileno()))
        test.servers.append(self.process.pid)
        test.defer(self.kill)
        self._check(socket.AF_INET if tcp else socket.AF_UNIX)

    @staticmethod
    def _prepare(fd):
        def prepare():
            die_with_us()
            os.dup2(fd, 3)
            os.set_inheritable(3, True)
        return prepare

    def _check(self, family):
        """Fails with the server's output if it does not send its greeting."""
        with socket.socket(family) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(self.address)
                greeting = client.recv(8)
            except OSError as error:
                greeting = str(error)
        if greeting != b"NBDMAGIC":
            raise AssertionError(f"{shlex.join(self.argv)}: {greeting}\n{self.output()}")

    @property
    def uri(self):
        return self.export_uri("")

    def export_uri(self, name):
        return self._prefix + "".join(
            chr(b) if chr(b).isalnum() and b < 128 else "%%%02X" % b
            for b in name.encode()) + self._suffix

    def output(self):
        """Returns the server's output so far."""
        with open(self.log, errors="replace") as f:
            return f.read()

    def signal(self, signum):
        self.process.send_signal(signum)

    def kill(self):
        """Kills the server and waits for it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


class Mount:
    """A mounted fleecefs: a context manager that unmounts and checks that nothing is left."""

    def __init__(self, test, *sources, options=(), point=None, env=None):
        self.test = test
        self.point = point or test.mkdir("mnt")
        self.pidfile = test.path("pid")
        self.scratch = test.mkdir("tmp")
        self.log = test.path("fleecefs.log")
        self.pid, self.processes = None, {}
        test.defer(self._force)
        self.argv = [*FLEECEFS, "--pidfile", self.pidfile, *map(str, options),
                     *map(str, sources), self.point]
        with open(self.log, "wb") as log:
            # A file, not a pipe: the daemon in the background may keep its stderr open.
            done = subprocess.run(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  timeout=PATIENCE,
                                  env={**os.environ, "TMPDIR": self.scratch,
                                       "XDG_RUNTIME_DIR": self.scratch, **(env or {})})
        if done.returncode != 0:
            raise AssertionError(f"{shlex.join(self.argv)}: exit status {done.returncode}\n"
                                 f"{self.output()}")
        with open(self.pidfile) as f:
            self.pid = int(f.read())
        self.processes = {pid: os.pidfd_open(pid) for pid in [self.pid, *children(self.pid)]}

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.unmount()

    def __truediv__(self, name):
        return os.path.join(self.point, name)

    def output(self):
        """Returns the output of fleecefs so far, stdout and stderr."""
        with open(self.log, errors="replace") as f:
            return f.read()

    def unmount(self):
        """Unmounts as a user does, if still mounted, and checks that nothing is left."""
        # --list of another test reads the status of all mounts, which are busy meanwhile.
        for left in range(100, -1, -1):
            if not is_mounted(self.point):
                break
            done = attempt("fusermount3", "-u", self.point)
            if done.returncode != 0 and ("busy" not in done.stderr or left == 0):
                raise AssertionError(f"fusermount3 -u {self.point}: {done.stderr}")
            if done.returncode != 0:
                time.sleep(0.1)
        self.check_gone()

    def check_gone(self):
        """Waits for the processes to end, and checks that mount and files are gone."""
        for pid, pidfd in self.processes.items():
            wait_gone(pidfd, f"process {pid} of {shlex.join(self.argv)}")
        self.check_end()
        self.test.assertFalse(is_mounted(self.point), "still mounted")
        self.test.assertFalse(os.path.exists(self.pidfile), "pid file left")
        self.test.assertEqual(os.listdir(self.scratch), [], "temporary files left")

    def check_end(self):
        """Fails if the daemon has ended with an error or by a signal."""
        try:
            end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # kill() has waited for it
        if end and (end.si_code, end.si_status) != (os.CLD_EXITED, 0):
            how = "exit status" if end.si_code == os.CLD_EXITED else "signal"
            raise AssertionError(f"fleecefs ended with {how} {end.si_status}")

    def kill(self):
        """Kills the daemon with SIGKILL, and waits for all of its processes."""
        os.kill(self.pid, signal.SIGKILL)
        for pid, pidfd in self.processes.items():
            wait_gone(pidfd, f"process {pid} of {shlex.join(self.argv)}")
        os.waitpid(self.pid, 0)

    def _force(self):
        """Ends what is left, and reports a crashed daemon."""
        try:
            if self.pid:
                self.check_end()
        finally:
            if is_mounted(self.point):
                attempt("umount", "-l", self.point)
            for pidfd in self.processes.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
            self.processes = {}

    def files(self):
        """All files of the tree, relative to its root, sorted; without .fleecefs/ and pieces."""
        def fail(error):
            raise error

        found = []
        for folder, subfolders, names in os.walk(self.point, onerror=fail):
            if folder == self.point:
                subfolders[:] = [s for s in subfolders if s != ".fleecefs"]
            subfolders[:] = [s for s in subfolders if s != "split"]
            found += [os.path.relpath(os.path.join(folder, n), self.point) for n in names]
        return sorted(found)

    def folders(self):
        """Names of the folders at the root, without .fleecefs."""
        return sorted(set(os.listdir(self.point)) - {".fleecefs"})

    def read(self, name, mode="r"):
        with open(self / name, mode) as f:
            return f.read()

    def json(self, name):
        return json.loads(self.read(name))


class TestCase(unittest.TestCase):
    """A test with a temporary folder and cleanup in reverse order."""

    maxDiff = 4096

    def setUp(self):
        self._stack = contextlib.ExitStack()
        _at_exit.push(self._stack)
        self.addCleanup(self._tell_duration, time.monotonic())
        self.addCleanup(self._stack.close)
        self._count = 0
        self.servers = [] # process ids of servers that the test itself started
        self.dir = tempfile.mkdtemp(prefix="fleecefs-test.")
        self.defer(shutil.rmtree, self.dir)
        self.defer(self._check_mounts)
        self.defer(self._check_sanitizers)
        # Not that of this machine; a Vm, a Domain and environment() have others.
        os.environ["FLEECEFS_STATE_DIR"] = f"{self.dir}/fleecefs-state"
        os.environ["SANITIZER_LOG"] = f"{self.dir}/sanitizer"
        os.environ["ASAN_OPTIONS"] = f"log_path={self.dir}/sanitizer"
        os.environ["UBSAN_OPTIONS"] = \
            f"log_path={self.dir}/sanitizer:halt_on_error=1:print_stacktrace=1"
        os.environ["TSAN_OPTIONS"] = \
            f"log_path={self.dir}/sanitizer:suppressions={TOP}/tests/tsan/suppressions"
        self.rng = random.Random(f"{SEED} {self.id()}")

    @staticmethod
    def _tell_duration(began):
        """For a reader who wonders where the time goes: nothing depends on it."""
        print(f"{time.monotonic() - began:.1f} s", end=" ", file=sys.stderr, flush=True)

    def defer(self, function, *args):
        """Calls FUNCTION when the test ends, before what was deferred earlier."""
        self._stack.callback(function, *args)

    def path(self, name):
        """A new path in the test's folder that ends in NAME."""
        self._count += 1
        return os.path.join(self.dir, f"{self._count}.{name}")

    def mkdir(self, name):
        path = self.path(name)
        os.mkdir(path)
        return path

    @contextlib.contextmanager
    def part(self):
        """A part of a test, with a separate folder and cleanup."""
        whole, stack = self.dir, self._stack
        self.dir = self.mkdir("part")
        os.chmod(self.dir, 0o755)
        try:
            with contextlib.ExitStack() as self._stack:
                _at_exit.push(self._stack)
                self.defer(shutil.rmtree, self.dir)
                yield
        finally:
            self.dir, self._stack = whole, stack

    def _check_mounts(self):
        """Fails with what is still mounted in the test's folder, and detaches it: a daemon that hangs
        would block whoever removes the folder."""
        with open("/proc/self/mounts", "rb") as f:
            points = [re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split(b" ")[1])
                      for line in f]
        left = [p for p in points if p.startswith(os.fsencode(self.dir) + b"/")]
        for point in left:
            libc.umount2(point, MNT_DETACH)
        if left:
            raise AssertionError(f"still mounted: {left}")

    def _check_sanitizers(self):
        """Fails with reports of sanitizers or valgrind, including those of background daemons."""
        for name in sorted(os.listdir(self.dir)):
            if name.startswith("sanitizer."):
                with open(os.path.join(self.dir, name), errors="replace") as f:
                    # "--1234-- " begins valgrind's note about an unknown system call. The other is
                    # LeakSanitizer's about a thread that ended while it looked.
                    said = "".join(line for line in f if not re.match(
                        r"--\d+-- |==\d+==Unable to get registers from thread \d+\.$", line)).strip()
                if said:
                    raise AssertionError(said)

    # Servers

    def qemu_nbd(self, image, *options, tcp=False):
        """qemu-nbd with OPTIONS, for any number of clients."""
        return Server(self, ["qemu-nbd", "--persistent", "--shared=0", *options, image], tcp)

    def nbdkit(self, *args, tcp=False):
        return Server(self, ["nbdkit", "--foreground", *args], tcp)

    def storage_daemon(self, exports, *args):
        """qemu-storage-daemon with EXPORTS: a dict of export name to (image, list of bitmaps)."""
        argv = ["qemu-storage-daemon", "--nbd-server", "addr.type=fd,addr.str=3,max-connections=0"]
        for i, (name, (image, bitmaps)) in enumerate(exports.items()):
            argv += ["--blockdev", json.dumps({
                "driver": "qcow2", "node-name": f"n{i}", "read-only": True,
                "file": {"driver": "file", "filename": image}})]
            argv += ["--export", json.dumps({
                "type": "nbd", "id": f"e{i}", "node-name": f"n{i}", "name": name,
                "bitmaps": bitmaps, "allocation-depth": True})]
        return Server(self, [*argv, *args])

    # fleecefs

    def mount(self, *sources, options=(), point=None, env=None):
        if not os.path.exists("/dev/fuse"):
            if CI:
                self.fail("no /dev/fuse")
            self.skipTest("no /dev/fuse")
        return Mount(self, *sources, options=options, point=point, env=env)

    def need_other_users(self):
        """Skips the test unless it can run programs as other users, who can mount."""
        require("setpriv")
        if os.geteuid() != 0:
            self.skipTest("needs root, to run as another user")
        if not os.stat(shutil.which("fusermount3")).st_mode & stat.S_ISUID or \
                not os.stat("/dev/fuse").st_mode & stat.S_IWOTH:
            self.skipTest("only root can use fusermount3 or /dev/fuse here")

    def environment(self):
        """Returns an environment where the program has its usual name, and scripts are in PATH."""
        folder = self.mkdir("bin")
        with open(folder + "/fleecefs", "w") as f:
            f.write(f'#!/bin/sh\nexec {shlex.join([os.path.abspath(FLEECEFS[0]), *FLEECEFS[1:]])} "$@"\n')
        os.chmod(folder + "/fleecefs", 0o755)
        return {**os.environ, "PATH": f"{folder}:{TOP}/contrib:{os.environ['PATH']}",
                "HOME": self.dir, "FLEECEFS_STATE_DIR": self.mkdir("state"),
                "RUNTIME_DIRECTORY": self.mkdir("run")}

    def fleecefs(self, *args, timeout=PATIENCE):
        """Runs fleecefs, ignoring its exit status."""
        done = attempt(*FLEECEFS, *args, timeout=timeout)
        if args and is_mounted(str(args[-1])):
            self.defer(attempt, "umount", "-l", args[-1])
        return done

    def assert_refused(self, *args, status=1, says=()):
        """Running fleecefs with ARGS fails with STATUS and one line on stderr that has all SAYS."""
        done = self.fleecefs(*args)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")
        for word in says:
            self.assertIn(word, done.stderr)
        return done.stderr

    def assert_errno(self, number, function, *args):
        with self.assertRaises(OSError) as caught:
            function(*args)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])


def main():
    """Runs the tests of the calling program; exit status 77 if all of them were skipped."""
    print(f"SEED={SEED} (give it in the environment to repeat this run)", flush=True)
    os.umask(0o022)
    program = unittest.main(verbosity=2, exit=False)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun and len(result.skipped) == result.testsRun:
        sys.exit(77)
