"""A private sshd on the loopback interface, with its own keys and configuration, in place of another
host. Commands run on this host."""
import contextlib
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
import urllib.parse

import lib

_shared = None
SSHD = "/usr/sbin/sshd"  # sshd requires an absolute path

CONFIG = """
ListenAddress 127.0.0.1
HostKey {0}/host
AuthorizedKeysFile {0}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 100
"""


# libvirt's ssh runs nc -U SOCKET on the other host.
NETCAT = """#!/usr/bin/python3
import os, select, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[-1])
while True:
    for ready in select.select([0, server], [], [])[0]:
        data = os.read(0, 65536) if ready == 0 else server.recv(65536)
        if not data:
            sys.exit()
        server.sendall(data) if ready == 0 else os.write(1, data)
"""


# Copies of other tests' mounts would keep them from ending.
BIND_ACCOUNTS = ('umount --lazy --all --types fuse.fleecefs; mount --bind "$0/passwd" /etc/passwd && '
                 'mount --bind "$0/group" /etc/group')


def make_key(path):
    lib.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)


def write_accounts(folder, users, shell, home):
    """Writes passwd(5) and group(5) with USERS into FOLDER, see Sshd."""
    with open("/etc/passwd") as f:
        lines = [line for line in f if line.split(":")[2] not in [str(uid) for uid, _ in users.values()]]
    with open(f"{folder}/passwd", "w") as f:
        f.writelines(lines)
        f.writelines(f"{name}:*:{uid}:65534::{home}:{shell}\n" for name, (uid, _) in users.items())
    with open("/etc/group") as f, open(f"{folder}/group", "w") as g:
        for line in f:
            name, password, gid, members = line.strip().split(":")
            added = [user for user, (_, groups) in users.items() if name in groups]
            g.write(f"{name}:{password}:{gid}:{','.join(filter(None, [members, *added]))}\n")
    for name in ("passwd", "group"):
        os.chmod(f"{folder}/{name}", 0o644)


class Account:
    """An unprivileged user of the backup host, in a mount namespace where it exists and can use FUSE."""

    # A user id of its own, because tests that run in parallel look at the user's processes.
    NAME, UID = "backup", 1000000 + os.getpid()

    def __init__(self, test):
        lib.require("setpriv", "unshare", "nsenter")
        if os.geteuid() != 0:
            raise lib.unittest.SkipTest("needs root, to run as another user")
        if not os.stat(shutil.which("fusermount3")).st_mode & stat.S_ISUID:
            raise lib.unittest.SkipTest("fusermount3 is not setuid root")
        self.home, folder = test.mkdir("home"), test.mkdir("account")
        os.chmod(test.dir, 0o755)
        os.mkdir(f"{self.home}/.ssh", 0o700)
        # The originals may be in a folder of root.
        self.program = f"{self.home}/fleecefs"
        shutil.copy(lib.FLEECEFS[0], self.program)
        self.contrib = f"{self.home}/contrib"
        shutil.copytree(f"{lib.TOP}/contrib", self.contrib, ignore=shutil.ignore_patterns("__pycache__"))
        write_accounts(folder, {self.NAME: (self.UID, [])}, "/bin/sh", self.home)
        device = os.stat("/dev/fuse")
        os.mknod(f"{folder}/fuse", device.st_mode | 0o666, device.st_rdev)
        os.chmod(f"{folder}/fuse", 0o666)
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c",
             f'{BIND_ACCOUNTS} && mount --bind "$0/fuse" /dev/fuse && echo ready && cat', folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=lib.die_with_us)
        test.defer(self._end)
        test.assertEqual(self.holder.stdout.readline(), "ready\n")
        self.env = {"PATH": f"{self.home}:{os.environ['PATH']}", "HOME": self.home, "LANG": "C.UTF-8",
                    "TMPDIR": self.mkdir("tmp")}
        self.point = self.mkdir("mnt")
        self.give()

    def _end(self):
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait(lib.PATIENCE)

    def mkdir(self, name):
        os.makedirs(f"{self.home}/{name}")
        os.chown(f"{self.home}/{name}", self.UID, 65534)
        return f"{self.home}/{name}"

    def give(self):
        """Gives everything in its home to the user."""
        for folder, folders, files in os.walk(self.home):
            for path in (folder, *(f"{folder}/{n}" for n in folders + files)):
                os.chown(path, self.UID, 65534, follow_symlinks=False)

    def write(self, name, text, mode=0o600):
        """Writes a file in its home."""
        with open(f"{self.home}/{name}", "w") as f:
            f.write(text)
        os.chmod(f"{self.home}/{name}", mode)
        self.give()
        return f"{self.home}/{name}"

    def configure_ssh(self, server, user="root", more="", host="hv"):
        """Writes ~/.ssh/config with HOST for SERVER, with the keys in ~/.ssh."""
        for name in ("key", "known"):
            shutil.copy(f"{server.dir}/{name}", f"{self.home}/.ssh")
        return self.write(".ssh/config", f"""
            {more}
            Host {host}
              HostName 127.0.0.1
              Port {server.port}
              User {user}
              IdentityFile ~/.ssh/key
              UserKnownHostsFile ~/.ssh/known
            """)

    def words(self, *argv):
        return ["nsenter", "--mount", "--target", str(self.holder.pid), "setpriv", f"--reuid={self.UID}",
                "--regid=65534", "--clear-groups", *argv]

    def attempt(self, *argv, **kwargs):
        return lib.attempt(*self.words(*argv), **{"env": self.env, "cwd": self.home, **kwargs})

    def run(self, *argv, **kwargs):
        return lib.run(*self.words(*argv), **{"env": self.env, "cwd": self.home, **kwargs})

    def processes(self):
        """Returns the commands of all processes of the user."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.stat(f"/proc/{pid}").st_uid == self.UID:
                    with open(f"/proc/{pid}/cmdline") as f:
                        found.append(f.read().replace("\0", " "))
        return list(filter(None, found))  # those that have ended have none

    def is_mounted(self):
        with open(f"/proc/{self.holder.pid}/mounts") as f:
            return f" {self.point} " in f.read()


class Sshd:
    """USERS: unprivileged users of the other host, {name: (uid, groups)}, with SHELL and HOME. CONFIG: lines
    for sshd_config(5)."""

    def __init__(self, users=None, shell="/bin/sh", home="/", config=""):
        lib.require("ssh", "ssh-keygen", SSHD)
        if os.geteuid() != 0:
            raise lib.unittest.SkipTest("a private sshd needs root")
        self.dir = tempfile.mkdtemp(prefix="fleecefs-sshd.", dir="/tmp")
        os.chmod(self.dir, 0o711)  # its users read the authorized keys
        lib._at_exit.callback(shutil.rmtree, self.dir)
        for name in ("host", "key", "stranger"):
            make_key(f"{self.dir}/{name}")
        with open(f"{self.dir}/config", "w") as f:
            f.write(CONFIG.format(self.dir) + config)
            if not users: # root, whose shell may read slow start-up files of this machine
                f.write(f"SetEnv HOME={self.dir}\n")
        os.makedirs("/run/sshd", exist_ok=True)
        self.prefix = self._write_users(users, shell, home) if users else []
        self.process = None
        # Another process may take the port first.
        while self.process is None:
            self._start(random.randrange(20000, 32000))
        lib._at_exit.callback(self.end)
        self.known = self.write_known("known", "host", self.port)
        # A wrapper in place of ~/.ssh/config.
        self.command = f"{self.dir}/ssh"
        with open(self.command, "w") as f:
            f.write(f'#!/bin/sh\nexec ssh -oUserKnownHostsFile={self.known} '
                    f'-oIdentityFile={self.dir}/key "$@"\n')
        self.netcat = f"{self.dir}/nc"
        with open(self.netcat, "w") as f:
            f.write(NETCAT)
        for name in (self.command, self.netcat):
            os.chmod(name, 0o755)

    def _write_users(self, users, shell, home):
        """Returns the prefix of a command that runs with USERS."""
        write_accounts(self.dir, users, shell, home)
        return ["unshare", "--mount", "sh", "-c", f'{BIND_ACCOUNTS} && exec "$@"', self.dir]

    def _start(self, port):
        process = subprocess.Popen(
            [*self.prefix, SSHD, "-D", "-e", "-p", str(port), "-f", f"{self.dir}/config"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=lib.die_with_us)
        # Waits for its message that it listens, or that it cannot.
        for line in process.stderr:
            if line.startswith("Server listening"):
                self.process, self.port = process, port
                threading.Thread(target=process.stderr.read, daemon=True).start()
                return
        process.wait()
        if "in use" not in line and "fatal: Cannot bind" not in line:
            raise AssertionError(line)

    def end(self):
        self.process.kill()
        self.process.wait()

    def write_known(self, name, key, port, host="127.0.0.1"):
        """Writes a known_hosts(5) in which HOST has KEY; returns its path."""
        with open(f"{self.dir}/{key}.pub") as f:
            words = f.read().split()
        with open(f"{self.dir}/{name}", "w") as f:
            f.write(f"[{host}]:{port} {words[0]} {words[1]}\n")
        return f"{self.dir}/{name}"

    def uri(self, libvirt, port=None, key="key", known=None, user="root@", host="127.0.0.1"):
        """Returns the URI of the libvirt with socket LIBVIRT; None: the system's."""
        params = {"keyfile": f"{self.dir}/{key}", "known_hosts": known or self.known}
        if libvirt:
            params["socket"] = libvirt
        return (f"qemu+ssh://{user}{host}:{port or self.port}/system?" +
                urllib.parse.urlencode(params, safe="/"))


def shared():
    global _shared
    if _shared is None:
        _shared = Sshd()
    return _shared


class Link:
    """A network link to PORT at HOST with a latency of DELAY seconds each way, which can be cut. Clients
    connect to its `port`: OWN, or a free one."""

    def __init__(self, test, port, delay=0, host="127.0.0.1", own=0):
        self.target, self.delay, self.pairs = (host, port), delay, []
        self.listener = socket.create_server(("127.0.0.1", own))
        self.port = self.listener.getsockname()[1]
        test.defer(self.end)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                server = socket.create_connection(self.target)
                self.pairs.append((client, server))
                for a, b in ((client, server), (server, client)):
                    b.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._pass(a, b)

    def _pass(self, a, b):
        """One thread receives and records the time, another sends after the delay."""
        ready, pending = threading.Semaphore(0), []

        def receive():
            data = b"x"
            while data:
                try:
                    data = a.recv(1 << 16)
                except OSError:
                    data = b""
                pending.append((time.monotonic() + self.delay, data))
                ready.release()

        def send():
            while ready.acquire():
                when, data = pending.pop(0)
                time.sleep(max(when - time.monotonic(), 0))
                try:
                    b.sendall(data) if data else b.shutdown(socket.SHUT_WR)
                except OSError:
                    data = b""
                if not data:
                    return

        for function in (receive, send):
            threading.Thread(target=function, daemon=True).start()

    def cut(self):
        """Cuts all connections; new ones can be made."""
        while self.pairs:
            for s in self.pairs.pop():
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)
                s.close()

    def end(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
