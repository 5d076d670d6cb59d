# SPDX-License-Identifier: LGPL-2.1-or-later
"""Passes on what the NBD server of a backup job sends, each byte after libvirt has confirmed that the job
still runs: see session.h. It runs on the VM's host, with Python 3.6 or newer, while fleecefs is connected
to it by ssh. The messages are those of virnetprotocol.x and remote_protocol.x of libvirt."""
import os
import queue
import select
import socket
import struct
import sys
import threading

PATH, SERVER, LIBVIRT, URI, UUID, TOTAL = sys.argv[1:]
# Seconds for an answer of libvirt: then the data is left to a connection without relay.
PATIENCE = 3
PROGRAM, CALL, REPLY = 0x20008086, 0, 1
OPEN, AUTH_LIST, AUTH_POLKIT, GET_JOB_STATS, GET_BACKUP = 1, 66, 70, 298, 422
AUTH_NONE, JOB_NONE, OPERATION_BACKUP = 0, 0, 9
WIDE, STRING = (3, 4, 5), 7  # types of typed parameters
DOMAIN = struct.pack(">I16si", 0, bytes.fromhex(UUID.replace("-", "")), -1)
NO_FLAGS = bytes(4)


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s


def padded(length):
    return length + -length % 4


class Libvirt:
    def __init__(self):
        self.socket, self.serial = connect(LIBVIRT), 0
        self.socket.settimeout(PATIENCE)
        offered = self.call(AUTH_LIST)
        if AUTH_NONE not in struct.unpack(">%dI" % (len(offered) // 4), offered)[1:]:
            self.call(AUTH_POLKIT)
        uri = os.fsencode(URI)
        self.call(OPEN, struct.pack(">II%ds" % padded(len(uri)), 1, len(uri), uri) + NO_FLAGS)

    def receive(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise OSError("libvirt has closed the connection")
            data += more
        return data

    def call(self, procedure, args=b""):
        self.serial += 1
        self.socket.sendall(struct.pack(">7I", 28 + len(args), PROGRAM, 1, procedure, CALL, self.serial, 0) +
                            args)
        while True:
            length, program, _, _, kind, serial, status = struct.unpack(">7I", self.receive(28))
            body = self.receive(length - 28)
            if (program, kind, serial) == (PROGRAM, REPLY, self.serial):
                if status != 0:
                    raise OSError("libvirt has refused a call")
                return body

    def confirm(self):
        """Fails unless our job runs with all disks. As look() in watch.c does, it reads the description after
        the totals."""
        body, values = self.call(GET_JOB_STATS, DOMAIN + NO_FLAGS), {}
        job, count = struct.unpack(">II", body[:8])
        body = body[8:]
        for _ in range(count):
            length, = struct.unpack(">I", body[:4])
            name, body = body[4:4 + length], body[4 + padded(length):]
            kind, = struct.unpack(">I", body[:4])
            size = 8 if kind in WIDE else 4
            value, body = int.from_bytes(body[4:4 + size], "big"), body[4 + size:]
            if kind == STRING:
                body = body[padded(value):]
            values[name] = value
        total = values.get(b"disk_temp_total", values.get(b"disk_total", 0))
        if job == JOB_NONE or values.get(b"operation") != OPERATION_BACKUP or total < int(TOTAL):
            raise OSError("the job has ended")
        if b"socket='%s'" % os.fsencode(SERVER) not in self.call(GET_BACKUP, DOMAIN + NO_FLAGS):
            raise OSError("the job is not ours")


def end(*sockets):
    for s in sockets:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def pass_requests(client, server):
    try:
        data = client.recv(1 << 16)
        while data:
            server.sendall(data)
            data = client.recv(1 << 16)
    except OSError:
        pass
    end(client, server)


def receive_all(server, received):
    """Always reads: QEMU would wait for us when libvirt ends the job, and libvirt for QEMU. The client's
    requests bound how much there is."""
    data = b"x"
    while data:
        try:
            data = server.recv(1 << 20)
        except OSError:
            data = b""
        received.put(data)


def pass_confirmed(client, received, libvirt):
    data = received.get()
    while data:
        parts = [data]
        while not received.empty():
            parts.append(received.get())
        libvirt.confirm()
        client.sendall(b"".join(parts))
        data = parts[-1] and received.get()


def pass_all(client, server, libvirt):
    received = queue.Queue()
    threads = [threading.Thread(target=pass_requests, args=(client, server), daemon=True),
               threading.Thread(target=receive_all, args=(server, received), daemon=True)]
    for thread in threads:
        thread.start()
    try:
        pass_confirmed(client, received, libvirt)
    finally:
        end(client, server)
        for thread in threads:
            thread.join()


def serve(client):
    """QEMU 7.2 hangs if its server is stopped while a client is negotiating: so logs in before connecting."""
    with client:
        try:
            libvirt = Libvirt()
            with libvirt.socket:
                # In NBD the server speaks first: this is the end of the client.
                if select.select([client], [], [], 0)[0]:
                    return
                with connect(SERVER) as server:
                    pass_all(client, server, libvirt)
        except (OSError, struct.error):
            pass


# The VM's process may rename the folder and put a link in its place.
os.fchdir(os.open(os.path.dirname(PATH), os.O_DIRECTORY | os.O_NOFOLLOW))
os.umask(0o077)
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.path.basename(PATH))
listener.listen(16)
if os.fork() != 0:
    os._exit(0)
os.setsid()
nothing = os.open(os.devnull, os.O_RDWR)
os.dup2(nothing, 0)
os.dup2(nothing, 2)
poll = select.poll()
poll.register(listener, select.POLLIN)
# Standard output is a pipe to sshd, which closes it when the connection has ended.
poll.register(1, 0)
while 1 not in dict(poll.poll()):
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
os.unlink(os.path.basename(PATH))
os._exit(0)
