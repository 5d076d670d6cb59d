"""A private sshd on the loopback interface, with its own keys and configuration, in place of another
host. Commands run on this host."""
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
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
NETCAT = f"""#!{sys.executable}
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


def make_key(path):
    lib.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)


class Sshd:
    """USERS: unprivileged users of the other host, {name: (uid, groups)}."""

    def __init__(self, users=None):
        lib.require("ssh", "ssh-keygen", SSHD)
        if os.geteuid() != 0:
            raise lib.unittest.SkipTest("a private sshd needs root")
        self.dir = tempfile.mkdtemp(prefix="fleecefs-sshd.", dir="/tmp")
        os.chmod(self.dir, 0o711)  # its users read the authorized keys
        lib._at_exit.callback(shutil.rmtree, self.dir)
        for name in ("host", "key", "stranger"):
            make_key(f"{self.dir}/{name}")
        with open(f"{self.dir}/config", "w") as f:
            f.write(CONFIG.format(self.dir))
        os.makedirs("/run/sshd", exist_ok=True)
        self.prefix = self._write_users(users) if users else []
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

    def _write_users(self, users):
        """Writes passwd(5) and group(5) with USERS; returns the prefix of a command that runs with them."""
        with open("/etc/passwd") as f:
            lines = [line for line in f if line.split(":")[2] not in
                     [str(uid) for uid, _ in users.values()]]
        with open(f"{self.dir}/passwd", "w") as f:
            f.writelines(lines)
            f.writelines(f"{name}:*:{uid}:65534::/:/bin/sh\n" for name, (uid, _) in users.items())
        with open("/etc/group") as f, open(f"{self.dir}/group", "w") as g:
            for line in f:
                name, password, gid, members = line.strip().split(":")
                added = [user for user, (_, groups) in users.items() if name in groups]
                g.write(f"{name}:{password}:{gid}:{','.join(filter(None, [members, *added]))}\n")
        for name in ("passwd", "group"):
            os.chmod(f"{self.dir}/{name}", 0o644)
        # Copies of other tests' mounts would keep them from ending.
        return ["unshare", "--mount", "sh", "-c",
                'umount --lazy --all --types fuse.fleecefs; '
                'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"',
                self.dir]

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
