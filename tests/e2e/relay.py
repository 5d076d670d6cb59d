#!/usr/bin/env python3
"""The program that fleecefs runs on another host: it passes on what an NBD server sends only after libvirt,
asked after the arrival, has confirmed the backup job. Both servers are played by the test."""
import contextlib
import os
import select
import socket
import stat
import struct
import subprocess
import sys

import lib

RELAY = f"{lib.TOP}/src/snapshot/libvirt/relay.py"
UUID = "1f0c3f3a-1111-4222-8333-944455556666"
OPEN, AUTH_LIST, AUTH_POLKIT, GET_JOB_STATS, GET_BACKUP = 1, 66, 70, 298, 422
BACKUP, MIGRATION = 9, 4
NONE, POLKIT = 0, 2
TOTAL = 1 << 33


def text(data):
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def stats(total=TOTAL, operation=BACKUP, kind=2, name=b"disk_temp_total"):
    """Returns the answer to GET_JOB_STATS, with fields of all types around those that count."""
    fields = [(b"a", 7, text(b"hello")), (b"operation", 1, struct.pack(">i", operation)),
              (b"bb", 3, struct.pack(">q", -5)), (b"disk_total", 4, struct.pack(">Q", 3 * TOTAL)),
              (b"ccc", 5, struct.pack(">d", 2.5)), (name, 4, struct.pack(">Q", total)),
              (b"dddd", 6, struct.pack(">i", 1)), (b"eeeee", 7, text(b"")), (b"f", 2, struct.pack(">I", 7))]
    return struct.pack(">II", kind, len(fields)) + b"".join(
        text(name) + struct.pack(">I", type_) + value for name, type_, value in fields)


class Relay(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.mkdir("job")
        self.relay, self.nbd = f"{self.folder}/relay", f"{self.folder}/nbd"
        self.libvirt = self.path("libvirt")
        self.listeners = [self.listen(path) for path in (self.nbd, self.libvirt)]
        self.end, write = os.pipe()
        # Its parent ends when it listens; its own end closes the pipe.
        with open(RELAY, "rb") as program:
            subprocess.run([sys.executable, "-I", "-", self.relay, self.nbd, self.libvirt, "qemu:///system",
                            UUID, str(TOTAL)], stdin=program, stdout=write, check=True, timeout=lib.PATIENCE)
        os.close(write)
        self.defer(self.close_pipe)

    def close_pipe(self):
        if self.end is not None:
            os.close(self.end)
            self.end = None

    def keep(self, s):
        self.defer(s.close)
        s.settimeout(lib.PATIENCE)
        return s

    def listen(self, path):
        listener = self.keep(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(8)
        return listener

    def accept(self, listener):
        return self.keep(listener.accept()[0])

    def receive_call(self, procedure):
        """Returns the call's serial and arguments."""
        length, *rest = struct.unpack(">7I", self.calls.recv(28, socket.MSG_WAITALL))
        self.assertEqual((rest[:4], rest[5]), ([0x20008086, 1, procedure, 0], 0))
        args = self.calls.recv(length - 28, socket.MSG_WAITALL) if length > 28 else b""
        return rest[4], args

    def answer(self, procedure, serial, body=b"", status=0, kind=1, program=0x20008086):
        self.calls.sendall(struct.pack(">7I", 28 + len(body), program, 1, procedure, kind, serial, status) +
                           body)

    def serve(self, procedure, body=b"", **kwargs):
        serial, args = self.receive_call(procedure)
        self.answer(procedure, serial, body, **kwargs)
        return args

    def connect(self, methods=(NONE,)):
        """Connects, lets it log in to libvirt, and sends a request; sets client, server and calls."""
        self.log_in(methods)
        self.server = self.accept(self.listeners[0])
        self.client.sendall(b"request")
        self.assertEqual(self.server.recv(100), b"request")

    def start(self):
        self.client = self.keep(socket.socket(socket.AF_UNIX))
        self.client.connect(self.relay)
        self.calls = self.accept(self.listeners[1])

    def check_not_connected(self):
        self.assertEqual(select.select([self.listeners[0]], [], [], 0)[0], [])

    def log_in(self, methods=(NONE,)):
        self.start()
        self.serve(AUTH_LIST, struct.pack(f">{len(methods) + 1}I", len(methods), *methods))
        if NONE not in methods:
            self.assertEqual(self.serve(AUTH_POLKIT), b"")
        self.check_not_connected()
        self.assertEqual(self.serve(OPEN), struct.pack(">I", 1) + text(b"qemu:///system") + bytes(4))

    def confirm(self):
        domain = bytes(4) + bytes.fromhex(UUID.replace("-", "")) + struct.pack(">i", -1) + bytes(4)
        self.assertEqual(self.serve(GET_JOB_STATS, stats()), domain)
        self.assertEqual(self.serve(GET_BACKUP, self.description()), domain)

    def description(self, path=None):
        return text(f"<domainbackup mode='pull'>\n  <server transport='unix' socket='{path or self.nbd}'/>"
                    "\n</domainbackup>".encode())

    def check_nothing_passed(self):
        """Nothing arrived, nor will it until the next confirmation."""
        self.client.setblocking(False)
        with self.assertRaises(BlockingIOError):
            self.client.recv(1)
        self.client.settimeout(lib.PATIENCE)

    def check_end(self, s):
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(s.recv(1), b"")

    def check_refused(self):
        """Both connections end without a byte."""
        for s in (self.client, self.server):
            self.check_end(s)

    def test_order(self):
        """A question follows each arrival, and what arrives during a question waits for the next one."""
        self.connect()
        self.server.sendall(b"one")
        serial, _ = self.receive_call(GET_JOB_STATS)
        self.server.sendall(b"two")
        self.answer(GET_JOB_STATS, serial, stats())
        serial, _ = self.receive_call(GET_BACKUP)
        self.check_nothing_passed()
        # Messages that answer no call.
        self.answer(5, 0, b"event", kind=2)
        self.answer(1, serial, program=0x6b656570)
        self.answer(GET_BACKUP, serial - 1, kind=1)
        self.check_nothing_passed()
        self.answer(GET_BACKUP, serial, self.description())
        self.assertEqual(self.client.recv(100), b"one")
        serial, _ = self.receive_call(GET_JOB_STATS)
        self.check_nothing_passed()
        self.answer(GET_JOB_STATS, serial, stats())
        self.serve(GET_BACKUP, self.description())
        self.assertEqual(self.client.recv(100), b"two")
        # The other kind of total; and the end of the client, which ends everything.
        self.server.sendall(b"three")
        self.serve(GET_JOB_STATS, stats(0, name=b"none"))
        self.serve(GET_BACKUP, self.description())
        self.assertEqual(self.client.recv(100), b"three")
        self.client.close()
        self.assertEqual((self.server.recv(1), self.calls.recv(1)), (b"", b""))

    def test_polkit(self):
        self.connect([POLKIT])
        self.server.sendall(b"data")
        self.confirm()
        self.assertEqual(self.client.recv(100), b"data")

    def test_job_has_ended(self):
        for answer in (stats(TOTAL - 1), stats(0), stats(kind=0), stats(operation=MIGRATION), b"",
                       stats()[:-1], struct.pack(">II", 2, 1 << 31), bytes(8), b"\xff" * 64):
            self.connect()
            self.server.sendall(b"data")
            self.serve(GET_JOB_STATS, answer)
            if answer == stats()[:-1]:  # still has what counts
                self.serve(GET_BACKUP, b"")
            self.check_refused()
        for answer in (self.description(self.folder), self.description(self.nbd + "x"), b""):
            self.connect()
            self.server.sendall(b"data")
            self.serve(GET_JOB_STATS, stats())
            self.serve(GET_BACKUP, answer)
            self.check_refused()

    def test_libvirt_fails(self):
        """It refuses a call, ends, does not answer in time, or none is there."""
        self.connect()
        self.server.sendall(b"data")
        self.serve(GET_JOB_STATS, stats(), status=1)
        self.check_refused()
        self.connect()
        self.server.sendall(b"data")
        self.serve(GET_JOB_STATS, stats())
        self.calls.close()
        self.check_refused()
        self.connect()
        self.server.sendall(b"data")
        self.check_refused()
        self.connect()  # while idle
        self.calls.close()
        self.server.sendall(b"data")
        self.check_refused()
        os.unlink(self.nbd)
        self.log_in()
        self.assertEqual(self.client.recv(1), b"")
        os.unlink(self.libvirt)
        self.client = self.keep(socket.socket(socket.AF_UNIX))
        self.client.connect(self.relay)
        self.assertEqual(self.client.recv(1), b"")

    def test_much(self):
        """It reads all, even if libvirt does not answer: QEMU must not wait for it."""
        self.connect()
        self.server.sendall(b"x" * 5000000)
        serial, _ = self.receive_call(GET_JOB_STATS)
        self.check_nothing_passed()
        self.answer(GET_JOB_STATS, serial, stats())
        self.serve(GET_BACKUP, self.description())
        got = 0
        self.server.shutdown(socket.SHUT_WR)
        self.client.setblocking(False)
        while got < 5000000:
            # Questions and data come in an order that depends on the parts.
            readable = select.select([self.client, self.calls], [], [], lib.PATIENCE)[0]
            if self.client in readable:
                got += len(self.client.recv(1 << 20))
            elif self.calls in readable:
                self.confirm()
            else:
                self.fail(f"{got} bytes arrived")
        self.assertEqual(got, 5000000)

    def test_client_ends(self):
        """It is then not connected to QEMU."""
        self.start()
        self.client.close()
        self.serve(AUTH_LIST, struct.pack(">2I", 1, NONE))
        self.serve(OPEN)
        self.check_end(self.calls)
        self.check_not_connected()

    def test_end(self):
        """It ends with the connection of sshd, and removes its socket."""
        self.assertEqual(stat.S_IMODE(os.stat(self.relay).st_mode) & 0o077, 0)
        self.connect()
        self.close_pipe()
        for s in (self.client, self.server, self.calls):
            self.check_end(s)
        self.assertNotIn("relay", os.listdir(self.folder))

    def test_link(self):
        """The folder's owner may replace it by a link."""
        link = self.path("link")
        os.symlink(self.folder, link)
        done = subprocess.run([sys.executable, "-I", RELAY, f"{link}/other", "x", "x", "x", UUID, "1"],
                              capture_output=True, check=False)
        self.assertEqual((done.returncode, sorted(os.listdir(self.folder))), (1, ["nbd", "relay"]))


if __name__ == "__main__":
    lib.main()
