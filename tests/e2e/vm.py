"""A real QEMU, and the tool that takes snapshots of it.

The VM runs only firmware; guest writes are simulated through the device with qemu-io in the human
monitor. Each disk has a model of its contents in memory.
"""
import collections
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess

import lib

TOOL = os.environ.get("BACKUP_TOOL", "build/tests/unit/snapshot-tool")
QEMU = "qemu-system-x86_64"


class QmpError(Exception):
    pass


class Qmp:
    """A monitor: calls and events."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(lib.PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("r")
        self.events = collections.deque()
        self._read()
        self("qmp_capabilities")

    def _read(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the monitor was closed")
        return json.loads(line)

    def __call__(self, command, **args):
        args = {k.replace("_", "-"): v for k, v in args.items()}
        self.socket.sendall(json.dumps({"execute": command, "arguments": args}).encode() + b"\n")
        while True:
            message = self._read()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(message["error"]["desc"])
            else:
                return message["return"]

    def wait(self, event, **data):
        """Waits for an EVENT whose data include DATA."""
        while True:
            message = self.events.popleft() if self.events else self._read()
            if message.get("event") == event and \
                    all(message.get("data", {}).get(k) == v for k, v in data.items()):
                return message.get("data", {})

    def close(self):
        self.file.close()
        self.socket.close()


class Disk:
    """A disk of a VM: its image, and a model of its contents."""

    def __init__(self, test, name, size=16 * lib.MIB, kind="qcow2", style="blockdev",
                 iothread=None, options=""):
        self.name, self.size, self.kind, self.style = name, size, kind, style
        self.iothread = iothread
        self.options = options  # of the device
        self.image = test.path(f"{name}.{kind}")
        self.model = bytearray(size)
        if kind == "raw":
            lib.run("qemu-img", "create", "-q", "-f", "raw", self.image, size)
        elif kind == "data-file":
            lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                    f"data_file={self.image}.raw,data_file_raw=on", self.image, size)
        else:
            lib.run("qemu-img", "create", "-q", "-f", "qcow2", self.image, size)
        self.format = "raw" if kind == "raw" else "qcow2"
        self.device = f"dev-{name}"

    def set_size(self, size):
        """Records the image's new SIZE; added space is zeros."""
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        self.size = size

    def arguments(self):
        # A disk may have its name from its device.
        self.device = "dev-" + self.name.removeprefix("dev-")
        if self.style == "drive":
            return ["-drive", f"file={self.image},format={self.format},if=none,id={self.name},"
                    "discard=unmap",
                    "-device", f"virtio-blk-pci,id={self.device},drive={self.name}"]
        node = {"driver": self.format, "node-name": self.name, "discard": "unmap",
                "file": {"driver": "file", "filename": self.image, "discard": "unmap"}}
        device = f"virtio-blk-pci,id={self.device},drive={self.name}"
        if self.iothread is not None:
            device += f",iothread={self.iothread}"
        if self.options:
            device += f",{self.options}"
        return ["-blockdev", json.dumps(node), "-device", device]


class Vm:
    """A QEMU with DISKS; `qmp` is the test's monitor, `monitor` the path of another one, which QEMU
    creates itself if SEEN. All VMs of a test share one state directory."""

    def __init__(self, test, disks, arguments=(), seen=False):
        lib.require(QEMU, "nbdcopy", "nbdinfo")
        self.test, self.disks = test, {d.name: d for d in disks}
        self.arguments = list(arguments)
        self.monitor, self.seen = test.path("qmp"), seen
        self.state = os.path.join(test.dir, "state")
        os.makedirs(self.state, exist_ok=True)
        self.output = test.path("qemu.log")
        self.start()

    def start(self):
        """Starts QEMU, also again."""
        argv = [QEMU, "-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "64"]
        own, listeners = self.test.path("own"), []
        if self.seen:
            argv += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        for i, path in enumerate([own] if self.seen else [own, self.monitor]):
            listener = socket.socket(socket.AF_UNIX)
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            listener.listen(4)
            listeners.append(listener)
            argv += ["-chardev", f"socket,id=m{i},fd={listener.fileno()},server=on,wait=off",
                     "-mon", f"chardev=m{i},mode=control"]
        for disk in self.disks.values():
            argv += disk.arguments()
        with open(self.output, "ab") as log:
            self.process = subprocess.Popen(
                argv + self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[x.fileno() for x in listeners], preexec_fn=lib.die_with_us)
        for listener in listeners:
            listener.close()
        self.test.defer(self.kill)
        try:
            self.qmp = Qmp(own)
        except (EOFError, OSError) as error:
            raise AssertionError(f"{argv}: {error}\n{self.said()}") from error
        self.test.defer(self.qmp.close)

    def version(self):
        """Returns QEMU's version, as numbers."""
        version = self.qmp("query-version")["qemu"]
        return version["major"], version["minor"], version["micro"]

    def said(self):
        with open(self.output, errors="replace") as f:
            return f.read()

    def kill(self):
        """Kills QEMU and waits for its end."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(lib.PATIENCE)

    def quit(self):
        self.qmp("quit")
        self.process.wait(lib.PATIENCE)

    def migrate(self, target):
        """Migrates the guest to TARGET, a waiting VM with the same disks."""
        path = self.test.path("migration")
        target.qmp("migrate-incoming", uri=f"unix:{path}")
        self.qmp("migrate-set-capabilities",
                 capabilities=[{"capability": "events", "state": True}])
        self.qmp("migrate", uri=f"unix:{path}")
        self.qmp.wait("MIGRATION", status="completed")
        target.qmp.wait("RESUME")

    def io(self, name, command):
        """Runs qemu-io COMMAND through the device of disk NAME."""
        before = len(self.said())
        path = f"/machine/peripheral/{self.disks[name].device}/virtio-backend"
        self.qmp("human-monitor-command", command_line=f'qemu-io -d {path} "{command}"')
        said = self.said()[before:]
        if "failed" in said or "rror" in said:
            raise AssertionError(f"{command}: {said}")

    def write(self, name, offset, length, byte):
        self.io(name, f"write -P {byte} {offset} {length}")
        self.disks[name].model[offset:offset + length] = bytes([byte]) * length

    def zero(self, name, offset, length, command="write -z"):
        self.io(name, f"{command} {offset} {length}")
        self.disks[name].model[offset:offset + length] = bytes(length)

    def scribble(self, rng, count=6):
        """Writes as a guest might, to every disk."""
        for name, disk in self.disks.items():
            for _ in range(count):
                length = rng.choice((512, 4096, 65536, 300 * 512))
                offset = rng.randrange((disk.size - length) // 512) * 512
                if rng.randrange(3) == 0:
                    # Contents after a discard are undefined; write -z -u unmaps if possible.
                    self.zero(name, offset, length, rng.choice(("write -z", "write -z -u")))
                else:
                    self.write(name, offset, length, rng.randrange(1, 256))

    def bitmaps(self):
        """Returns QEMU's data of all named bitmaps, by (node, name)."""
        return {(node["node-name"], bitmap["name"]): bitmap
                for node in self.qmp("query-named-block-nodes", flat=True)
                for bitmap in node.get("dirty-bitmaps", []) if "name" in bitmap}

    def points(self, series="last"):
        """Returns names of the restore points of SERIES, as {disk: list}."""
        found = collections.defaultdict(list)
        for node, name in self.bitmaps():
            if name.startswith(f"fleecefs.{series}."):
                found[node].append(name)
        return dict(found)

    def leftovers(self):
        """Returns everything in QEMU that a backup creates and must remove at its end."""
        nodes = [n["node-name"] for n in self.qmp("query-named-block-nodes", flat=True)]
        found = [n for n in nodes if n.startswith("fleecefs")]
        found += [e["id"] for e in self.qmp("query-block-exports")]
        found += [j["id"] for j in self.qmp("query-jobs")]
        # Backing images of an overlay cannot be changed.
        fixed = {n["node-name"] for n in self.qmp("query-named-block-nodes", flat=True) if n["ro"]}
        names = [(node, name) for node, name in self.bitmaps() if node not in fixed]
        found += [f"bitmap {name}" for _, name in names if "pending" in name]
        # A fleecefs-disk bitmap needs a restore point of its series; a fleecefs-check bitmap, its own.
        for node, name in names:
            if name.startswith("fleecefs-check.") and \
                    (node, name.replace("-check", "", 1)) not in names:
                found.append(f"bitmap {name} of {node}")
            series = re.fullmatch(r"fleecefs-disk\.(.+)\.[^.]+", name)
            if series and not any(n == node and p.startswith(f"fleecefs.{series[1]}.")
                                  for n, p in names):
                found.append(f"bitmap {name} of {node}")
        try:
            # Fails if a server is running.
            self.qmp("nbd-server-start",
                     addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
            self.qmp("nbd-server-stop")
        except QmpError as error:
            found.append(str(error))
        found += [o["name"] for o in self.qmp("qom-list", path="/objects")
                  if o["name"].startswith("fleecefs")]
        # Lock files and the clocks of pieces are kept.
        found += [f for f in os.listdir(self.state)
                  if not f.endswith(".lock") and not f.startswith("pieces-")]
        return found

    def environment(self):
        return {**os.environ, "FLEECEFS_STATE_DIR": self.state, "XDG_RUNTIME_DIR": self.test.dir}

    def begin(self, *options, monitor=None):
        return Snapshot(self, options, "qmp:" + (monitor or self.monitor))

    def recover(self, *options, monitor=None):
        return lib.run(TOOL, "--recover", *options, "qmp:" + (monitor or self.monitor),
                       env=self.environment()).strip()


class Refused(Exception):
    pass


class Snapshot:
    """The tool, with a snapshot of VM; `disks` are its descriptions by name."""

    def __init__(self, vm, options, source):
        self.vm = vm
        options = ["--scratch", vm.test.dir, *map(str, options)]
        self.heard = b""
        self.process = subprocess.Popen(
            [TOOL, *options, source], env=vm.environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lib.die_with_us)
        vm.test.defer(self.kill)
        line = self.line()
        if not line:
            self.process.wait(lib.PATIENCE)
            raise Refused(self.process.stderr.read().decode().strip())
        self.info = json.loads(line)
        self.disks = {d["name"]: d for d in self.info["disks"]}

    def line(self):
        """Returns the tool's next line; "" when it has ended."""
        while b"\n" not in self.heard:
            if not select.select([self.process.stdout], [], [], lib.PATIENCE)[0]:
                return "silent"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return ""
            self.heard += data
        line, _, self.heard = self.heard.partition(b"\n")
        return line.decode()

    def tell(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, command):
        """Sends COMMAND and returns the answer; skips reports of lost disks."""
        self.tell(command)
        while (line := self.line()).startswith("lost:"):
            pass
        return line

    def finish(self, command):
        """Commits or aborts, and ends the tool."""
        answer = self.ask(command)
        self.vm.test.assertEqual(answer, "ok")
        self.tell("quit")
        self.vm.test.assertEqual(self.process.wait(lib.PATIENCE), 0)

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(lib.PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def uri(self, name):
        return f"nbd+unix:///{self.disks[name]['export']}?socket={self.info['socket']}"

    def read(self, name):
        """Returns the contents of a disk."""
        path = self.vm.test.path("copy")
        lib.run("nbdcopy", self.uri(name), path)
        with open(path, "rb") as f:
            data = f.read()
        os.unlink(path)
        return data

    def map(self, name, bitmap="last"):
        """Returns the dirty ranges of a bitmap."""
        rows = json.loads(lib.run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}",
                                  self.uri(name)))
        return [(r["offset"], r["offset"] + r["length"]) for r in rows if r["type"] & 1]

    def backup(self, name, old=None, series="last"):
        """Backs up a disk, incrementally if OLD is the last backup; returns the restored contents."""
        data = self.read(name)
        if self.disks[name].get("base") is None:
            return data
        new = bytearray(old)
        for start, end in self.map(name, series):
            new[start:end] = data[start:end]
        return bytes(new)


class StuckClient:
    """An NBD client that requests much data and reads none."""

    def __init__(self, test, snapshot):
        self.socket = socket.socket(socket.AF_UNIX)
        test.defer(self.socket.close)
        self.socket.settimeout(lib.PATIENCE)
        self.socket.connect(snapshot.info["socket"])
        self.receive(18)
        name = b"vda"
        self.socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" +
                            struct.pack(">II", 1, len(name)) + name)
        self.receive(10)
        for handle in range(64):
            self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, handle, 0, lib.MIB))
        # Once the first reply has begun, the server is blocked in the middle of it.
        select.select([self.socket], [], [], lib.PATIENCE)

    def receive(self, length):
        while length > 0:
            length -= len(self.socket.recv(length))

    def close(self):
        self.socket.close()
