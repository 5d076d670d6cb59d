"""A private, real libvirtd without systemd, and its domains.

It runs in private namespaces in which libvirt's directories belong to the test: it neither sees nor
disturbs the system's libvirtd, and all its VMs end with it. All tests of a program share one, because
starting it takes seconds, in which it probes QEMU's capabilities.
"""
import contextlib
import fcntl
import html
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid

import lib
import vm

_shared = None

QEMU_CONF = """
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
"""
DIRECTORIES = {"run": "/run/libvirt", "etc": "/etc/libvirt", "lib": "/var/lib/libvirt",
               "log": "/var/log/libvirt", "cache": "/var/cache/libvirt"}
# Names of systemd's sockets.
LISTENERS = ["libvirtd.socket", "libvirtd-tcp.socket", "libvirtd-tls.socket"]


def init(folder, listeners):
    """PID 1 of the namespaces: starts and signals processes on command, and reaps."""
    # Copies of other tests' mounts would prevent their unmount.
    lib.attempt("umount", "--lazy", "--all", "--types", "fuse.fleecefs")
    for name, where in DIRECTORIES.items():
        os.makedirs(where, exist_ok=True)
        lib.run("mount", "--bind", f"{folder}/{name}", where)
    if os.path.exists("/dev/kvm"):
        # If QEMU cannot use /dev/kvm, libvirt probes QEMU again before each action.
        lib.run("mount", "--bind", f"{folder}/nothing", "/dev/kvm")
    wake, wake_write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    dead = set()

    def reap(pid):
        while pid not in dead:
            try:
                dead.add(os.waitpid(-1, os.WNOHANG if pid is None else 0)[0])
            except ChildProcessError:
                return
            if 0 in dead:
                dead.clear()
                return

    while True:
        if wake in select.select([wake, 0], [], [])[0]:
            os.read(wake, 4096)
            reap(None)
            continue
        words = os.read(0, 4096).decode().split()
        if not words:
            return
        if words[0] == "start":
            pid = os.fork()
            if pid == 0:
                # Duplicates them above the target range first.
                for i, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in listeners]):
                    os.dup2(fd, 3 + i)
                os.environ.update(LISTEN_FDS=str(len(listeners)), LISTEN_PID=str(os.getpid()),
                                  LISTEN_FDNAMES=":".join(LISTENERS[:len(listeners)]))
                os.execlp("libvirtd", "libvirtd", "-f", "/etc/libvirt/libvirtd.conf", "-p",
                          f"{folder}/pid")
            print(pid, flush=True)
        else:
            dead.clear()
            os.kill(int(words[1]), signal.Signals[words[0]])
            if words[0] == "SIGKILL":
                reap(int(words[1]))
            print("done", flush=True)


class Libvirtd:
    """PKI: a folder with certificates. If given, it also listens for TLS and TCP, at `tls` and `tcp`, and
    QEMU's NBD servers use TLS."""

    def __init__(self, pki=None):
        lib.require("libvirtd", "virsh", "unshare", vm.QEMU)
        if os.geteuid() != 0:
            raise lib.unittest.SkipTest("a private libvirtd needs root")
        self.dir = tempfile.mkdtemp(prefix="fleecefs-libvirtd.", dir="/tmp")
        os.chmod(self.dir, 0o755)
        lib._at_exit.callback(shutil.rmtree, self.dir)
        for name in (*DIRECTORIES, "etc/qemu"):
            os.makedirs(f"{self.dir}/{name}")
        with open(f"{self.dir}/etc/qemu.conf", "w") as f:
            f.write(QEMU_CONF)
            if pki:
                f.write(f'backup_tls_x509_cert_dir = "{pki}"\n')
        with open(f"{self.dir}/etc/libvirtd.conf", "w") as f:
            f.write('auth_unix_rw = "none"\nauth_tcp = "none"\n')
            if pki:
                f.write("".join(f'{name}_file = "{pki}/{file}.pem"\n' for name, file in (
                    ("ca", "ca-cert"), ("cert", "server-cert"), ("key", "server-key"))))
        os.close(os.open(f"{self.dir}/nothing", os.O_CREAT, 0o600))
        # A filesystem that is too small for scratch files.
        self.small = f"{self.dir}/small"
        os.mkdir(self.small)
        lib.run("mount", "-t", "tmpfs", "-o", "size=24m,mode=1777", "tmpfs", self.small)
        lib._at_exit.callback(lib.run, "umount", "-l", self.small)
        self.socket = f"{self.dir}/socket"
        os.symlink(self.socket, f"{self.dir}/run/libvirt-sock")
        # Stays open across restarts of libvirtd, like systemd's.
        listeners = [socket.socket(socket.AF_UNIX)]
        listeners[0].bind(self.socket)
        listeners[0].listen(64)
        if pki:
            listeners += [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            self.tcp, self.tls = (s.getsockname()[1] for s in listeners[1:])
        with open(f"{self.dir}/out", "ab") as log:
            self.init = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child",
                 sys.executable, __file__, self.dir, *(str(s.fileno()) for s in listeners)],
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                pass_fds=[s.fileno() for s in listeners], preexec_fn=lib.die_with_us)
        for s in listeners:
            s.close()
        lib._at_exit.callback(self.end)
        self.start()

    def end(self):
        self.init.stdin.close()
        self.init.wait(lib.PATIENCE)
        self.init.stdout.close()

    def uri(self, path=None):
        return f"qemu+unix:///system?socket={path or self.socket}"

    def command(self, command):
        self.init.stdin.write(command + "\n")
        self.init.stdin.flush()
        return self.init.stdout.readline().strip()

    def start(self):
        self.pid = self.command("start")

    def kill(self):
        """SIGKILL: the VMs continue."""
        self.command(f"SIGKILL {self.pid}")

    def hang(self, test, pid=None):
        """Stops libvirtd, or process PID in its namespace, until resume()."""
        self.command(f"SIGSTOP {pid or self.pid}")
        test.defer(self.resume, pid)

    def resume(self, pid=None):
        self.command(f"SIGCONT {pid or self.pid}")

    def virsh(self, *args, **kwargs):
        return lib.run("virsh", "--connect", self.uri(), *args, **kwargs).strip()

    def run_inside(self, *argv):
        """Runs a command in its mount namespace, where it is qemu:///system."""
        return lib.run("nsenter", "--mount", "--target", lib.children(self.init.pid)[0], *argv)


def shared(pki=None):
    global _shared
    if _shared is None:
        _shared = Libvirtd(pki)
    return _shared


class Proxy:
    """A proxy in front of libvirtd. ON_CALL(procedure) decides the fate of each call, given its
    procedure number: PASS, CUT to close the connection, PASS_AND_CUT, or an Event to wait for
    while others proceed. See remote_protocol.x and virnetprotocol.x of libvirt: a call consists of
    its total length, the program, its version, and the procedure, each of 4 bytes."""

    PASS, CUT, PASS_AND_CUT = "pass", "cut", "pass and cut"
    FREEZE, THAW, CREATE_CHECKPOINT, BEGIN_BACKUP, GET_BACKUP = 335, 336, 411, 421, 422
    GET_JOB_STATS = 298
    REMOTE = 0x20008086

    def __init__(self, test, libvirtd, on_call):
        self.on_call, self.calls = on_call, 0
        self.target = libvirtd.socket
        self.path = test.path("proxy")
        self.lock = threading.Lock()
        self.sockets, self.threads = [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        test.defer(self.close)
        self._start(self._accept)

    def _start(self, function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        self.threads.append(thread) # close() joins what is listed

    def close(self):
        for s in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        while self.threads:
            self.threads.pop().join(lib.PATIENCE)
        while self.sockets:
            self.sockets.pop().close()
        self.listener.close()

    def refuse(self):
        """Refuses new connections."""
        self.listener.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, server = self.listener.accept()[0], socket.socket(socket.AF_UNIX)
                self.sockets += [client, server]
                server.connect(self.target)
                self._start(self._run, self._pass_calls, client, server)
                self._start(self._run, self._pass_answers, client, server)

    @staticmethod
    def _run(function, client, server):
        with contextlib.suppress(OSError):
            function(client, server)
        for s in (client, server):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pass_answers(client, server):
        while data := server.recv(1 << 16):
            client.sendall(data)

    def _pass_calls(self, client, server):
        while len(head := client.recv(16, socket.MSG_WAITALL)) == 16:
            length, program, _, procedure = struct.unpack(">IIII", head)
            message = head + client.recv(length - 16, socket.MSG_WAITALL)
            fate = self.PASS
            if program == self.REMOTE:
                fate = self.on_call(procedure)
                self.calls += 1
            if isinstance(fate, threading.Event):
                self._start(self._send, server, message, fate)
            elif fate != self.CUT:
                self._send(server, message)
            if fate in (self.CUT, self.PASS_AND_CUT):
                return

    def _send(self, server, message, event=None):
        if event:
            event.wait(lib.PATIENCE)
        with self.lock, contextlib.suppress(OSError):
            server.sendall(message)


class Domain(vm.Vm):
    """A domain with DISKS and a CD drive; DEVICES is XML of more devices, ARGUMENTS are for QEMU."""

    count = 0
    machine = """<memory unit='MiB'>32</memory>
        <os><type arch='x86_64' machine='q35'>hvm</type></os>"""

    def __init__(self, test, disks, transient=False, devices="", arguments=(), name=None):
        self.libvirtd = shared()
        self.test, self.disks = test, {d.name: d for d in disks}
        self.name = name or self.new_name()
        self.transient = transient
        self.state = test.mkdir("state")
        self.scratch = test.mkdir("scratch")
        os.chmod(test.dir, 0o755)
        os.chmod(self.scratch, 0o1777)
        self.xml = test.path("domain.xml")
        self.uuid = str(uuid.uuid4())
        with open(self.xml, "w") as f:
            f.write(self._xml(devices, arguments))
        if not transient:
            self.virsh("define", self.xml)
            test.defer(self._undefine)
        self.start()

    @staticmethod
    def new_name():
        Domain.count += 1
        return f"test {Domain.count}"

    def _xml(self, devices, arguments):
        disks = "".join(
            f"""<disk type='file' device='disk'>
                  <driver name='qemu' type='{d.format}' discard='unmap'
                    {f"iothread='{d.iothread}'" if d.iothread else ""}/><source file='{d.image}'/>
                  <target dev='{d.name}' bus='virtio'/><alias name='ua-{d.name}'/></disk>"""
            for d in self.disks.values())
        arguments = "".join(f"<qemu:arg value='{a}'/>" for a in arguments)
        return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
            <name>{html.escape(self.name)}</name><uuid>{self.uuid}</uuid>{self.machine}
            {"<iothreads>1</iothreads>" if any(d.iothread for d in self.disks.values()) else ""}
            <devices><emulator>{shutil.which(vm.QEMU)}</emulator>{disks}{devices}
            <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
            <controller type='usb' model='none'/><memballoon model='none'/></devices>
            <qemu:commandline>{arguments}</qemu:commandline></domain>"""

    def virsh(self, *args, **kwargs):
        return self.libvirtd.virsh(*args, **kwargs)

    def start(self):
        self.virsh("create", self.xml, "--paused") if self.transient else \
            self.virsh("start", self.name, "--paused")
        self.test.defer(self._destroy)

    def change(self, *disks):
        """Replaces the disks of the VM, which is shut off."""
        self.disks = {d.name: d for d in disks}
        with open(self.xml, "w") as f:
            f.write(self._xml("", ()))
        if not self.transient:
            self.virsh("define", self.xml)

    def _destroy(self):
        lib.attempt("virsh", "--connect", self.libvirtd.uri(), "destroy", self.name)

    def _undefine(self):
        lib.attempt("virsh", "--connect", self.libvirtd.uri(), "undefine", self.name,
                    "--checkpoints-metadata", "--nvram")

    def quit(self):
        """Ends QEMU gracefully, so that it stores its bitmaps."""
        self.virsh("destroy", self.name, "--graceful")

    def pid(self):
        """QEMU's process id in libvirtd's PID namespace."""
        with open(f"{self.libvirtd.dir}/run/qemu/{self.name}.pid") as f:
            return int(f.read())

    def kill(self):
        """Kills QEMU and waits for its end."""
        self.libvirtd.command(f"SIGKILL {self.pid()}")
        while self.virsh("domstate", self.name) != "shut off":
            pass

    def said(self):
        with open(f"{self.libvirtd.dir}/log/qemu/{self.name}.log", errors="replace") as f:
            return f.read()

    def version(self):
        said = json.loads(self.virsh("qemu-monitor-command", self.name,
                                     '{"execute": "query-version"}'))["return"]["qemu"]
        return said["major"], said["minor"], said["micro"]

    def io(self, name, command):
        before = len(self.said())
        path = f"/machine/peripheral/ua-{name}/virtio-backend"
        self.virsh("qemu-monitor-command", self.name, "--hmp", f'qemu-io -d {path} "{command}"')
        said = self.said()[before:]
        if re.search("failed|rror", said):
            raise AssertionError(f"{command}: {said}")

    def checkpoints(self):
        return sorted(self.virsh("checkpoint-list", self.name, "--name").split())

    def job(self):
        """Returns the XML of the backup in progress, or None."""
        done = lib.attempt("virsh", "--connect", self.libvirtd.uri(), "backup-dumpxml", self.name)
        return done.stdout if done.returncode == 0 else None

    def leftovers(self):
        """Returns everything that a backup creates and must remove at its end."""
        found = [x for x in (self.job(),) if x]
        found += os.listdir(self.scratch)
        found += [n for n in self.checkpoints() if "pending" in self.virsh(
            "checkpoint-dumpxml", self.name, n, "--no-domain")]
        # Lock files and the clocks of pieces are kept.
        return found + [f for f in os.listdir(self.state)
                        if not f.endswith(".lock") and not f.startswith("pieces-")]

    def source(self, path=None):
        return f"libvirt:{self.name}?connect={self.libvirtd.uri(path)}"

    def begin(self, *options, path=None):
        return vm.Snapshot(self, ("--scratch", self.scratch, *options), self.source(path))

    def recover(self, *options):
        return lib.run(vm.TOOL, "--recover", "--scratch", self.scratch, *options, self.source(),
                       env=self.environment()).strip()


if __name__ == "__main__":
    init(sys.argv[1], [int(fd) for fd in sys.argv[2:]])
