"""Proxies for a VM's monitor that count, cut off and change messages."""
import json
import os
import socket
import threading


class Proxy:
    """A proxy for the VM's monitor that counts commands; at command LIMIT (a number or a name) it calls
    ON_LIMIT and stops forwarding. It accepts CONNECTIONS connections, one after the other."""

    def __init__(self, vm, limit=float("inf"), on_limit=None, connections=1):
        self.vm, self.limit, self.on_limit = vm, limit, on_limit
        self.connections = connections
        self.path = vm.test.path("proxy")
        self.commands, self.client = [], None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        for _ in range(self.connections):
            self._connect()
        self.listener.close()
        os.unlink(self.path)

    def _connect(self):
        self.client = self.listener.accept()[0]
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(self.vm.monitor)
        back = threading.Thread(target=self._back)
        back.start()
        self._forth()
        for s in (self.server, self.client):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        back.join()
        self.server.close()
        self.client.close()

    def _forth(self):
        while True:
            # The client waits for each reply before the next command, unless interrupted.
            try:
                data, fds, _, _ = socket.recv_fds(self.client, 1 << 20, 4)
            except ConnectionError:
                return
            if not data:
                return
            while not data.endswith(b"\n"):
                data += self.client.recv(1 << 20)
            commands = [json.loads(line)["execute"] for line in data.splitlines()]
            if self.limit in (len(self.commands), *commands):
                self.on_limit()
                for fd in fds:
                    os.close(fd)
                return
            self.commands += commands
            socket.send_fds(self.server, [data], fds)
            for fd in fds:
                os.close(fd)

    def _back(self):
        while True:
            try:
                data = self.server.recv(1 << 16)
                if not data:
                    return
                self.client.sendall(data)
            except OSError:
                return


class Filter(Proxy):
    """Passes each message for the client to `edit` and forwards its result, if any. The command that a
    reply belongs to is `commands[-1]`."""

    def __init__(self, vm, edit=None, **kwargs):
        self.edit = edit or (lambda message: message)
        super().__init__(vm, **kwargs)

    def _back(self):
        with self.server.makefile("rb") as lines:
            try:
                for line in lines:
                    message = self.edit(json.loads(line))
                    if message is not None:
                        self.client.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                pass
