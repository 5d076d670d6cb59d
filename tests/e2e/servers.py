#!/usr/bin/env python3
"""Real NBD servers with unusual behaviour."""
import errno
import os
import signal
import socket
import subprocess

import lib


class Servers(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = self.path("disk.raw")
        self.disk = self.rng.randbytes(4 * lib.MIB)
        with open(self.image, "wb") as f:
            f.write(self.disk)

    def run_server(self, *argv):
        """Starts a program that creates its own socket; returns when it listens."""
        process = subprocess.Popen([str(a) for a in argv], preexec_fn=lib.die_with_us,
                                   stdin=subprocess.DEVNULL)
        self.defer(self.end, process)
        return process

    def wait_for_listener(self, path, process):
        """Waits without connecting, because the server may accept only one connection."""
        while True:
            with open("/proc/net/unix") as f:
                # proc(5): the flag of a socket that accepts connections.
                if any(line.split()[3] == "00010000" and line.rstrip().endswith(" " + path)
                       for line in f):
                    return
            self.assertIsNone(process.poll())

    @staticmethod
    def end(process):
        process.kill()
        process.wait()

    @staticmethod
    def end_daemon(pidfd):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        lib.wait_gone(pidfd, "the server")
        os.close(pidfd)

    def check(self, mount, folder="default"):
        self.assertEqual(mount.read(folder + "/disk.raw", "rb") == self.disk, True)

    # Servers that end with their only client

    def test_qemu_nbd_that_ends_with_its_client(self):
        lib.require("qemu-nbd")
        for shared in ("1", "2"):
            with self.subTest(shared=shared):
                path = self.path("nbd.sock")
                server = self.run_server("qemu-nbd", "-r", "-f", "raw", "-e", shared, "-k", path,
                                         self.image)
                self.wait_for_listener(path, server)
                with self.mount(f"nbd+unix:///?socket={path}") as mount:
                    mount.read("default/disk.map")
                    self.check(mount)
                    self.assertIsNone(server.poll())
                server.wait(lib.PATIENCE)

    def test_qemu_nbd_that_is_started_for_the_mount(self):
        lib.require("qemu-nbd")
        with self.mount("[", "qemu-nbd", "-r", "-f", "raw", self.image, "]") as mount:
            mount.read("default/disk.map")
            self.check(mount)
            self.check(mount)

    def test_a_server_that_came_back_since_the_mount(self):
        """The connection from before is unusable."""
        path = self.path("nbd.sock")
        argv = ["nbdkit", "--foreground", "-r", "-U", path, "file", self.image]
        lib.require("nbdkit")
        server = self.run_server(*argv)
        self.wait_for_listener(path, server)
        with self.mount(f"nbd+unix:///?socket={path}", options=["-o", "reconnect=0"]) as mount:
            self.end(server)
            os.unlink(path)
            self.wait_for_listener(path, self.run_server(*argv))
            self.check(mount)

    # What servers report

    def test_nbd_server(self):
        """It reports sizes of 0 until a client selects the export."""
        lib.require("nbd-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        conf = self.path("nbd.conf")
        with open(conf, "w") as f:
            f.write("[generic]\nallowlist = true\nlistenaddr = 127.0.0.1\n"
                    f"port = {port}\n")
            for name in ("one", "two"):
                f.write(f"[{name}]\nexportname = {self.image}\nreadonly = true\n")
        pid = self.path("nbd.pid")
        # It daemonizes once it listens, and writes a pid file.
        lib.run("nbd-server", "-C", conf, "-p", pid)
        lib.wait_for_file(pid)
        with open(pid) as f:
            self.defer(self.end_daemon, os.pidfd_open(int(f.read())))
        with self.mount(f"nbd://127.0.0.1:{port}/one") as mount:
            self.check(mount, "one")
        with self.mount(f"nbd://127.0.0.1:{port}") as mount:
            self.assertEqual(mount.folders(), ["one", "two"])
            self.check(mount, "two")

    def test_exports_without_a_size(self):
        """An error, not an empty tree, which a backup would copy."""
        for names in (["a"], ["a", "b"]):
            with self.subTest(names):
                argv = ["qemu-storage-daemon", "--nbd-server", "addr.type=fd,addr.str=3"]
                for name in names:
                    argv += ["--blockdev", f"null-co,node-name={name},size=0",
                             "--export", f"nbd,id={name},node-name={name},name={name}"]
                server = lib.Server(self, argv)
                self.assert_refused(server.uri, self.mkdir("mnt"), says=["size of 0", "nothing to mount"])

    def test_without_structured_replies(self):
        """The server may list meta contexts nevertheless."""
        lib.require("nbdkit")
        server = self.nbdkit("--no-sr", "file", self.image)
        with self.mount(server.uri) as mount:
            self.assertNotIn("default/disk.map", mount.files())
            self.check(mount)

    def test_tls_that_was_not_asked_for(self):
        lib.require("nbdkit", "psktool")
        keys = self.path("keys.psk")
        lib.run("psktool", "-u", "user", "-p", keys)
        server = self.nbdkit("--tls=require", f"--tls-psk={keys}", "file", self.image)
        for uri in (server.uri, server.export_uri("name")):
            self.assert_refused(uri, self.mkdir("mnt"), says=["requires TLS", "nbds:"])

    def test_a_socket_that_nobody_listens_on(self):
        path = self.path("dead.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        said = self.assert_refused(f"nbd+unix:///?socket={path}", self.mkdir("mnt"),
                                   says=[path, "refused", "check that the server runs"])
        self.assertEqual(said.count("\n"), 1)

    # Slow block status

    def test_block_status_that_comes_too_late(self):
        """The request times out, and the mount remains."""
        lib.require("nbdkit")
        server = self.nbdkit("--filter=delay", "memory", "1G", "delay-extents=5")
        with self.mount(server.uri, options=["-o", "timeout=1,reconnect=0"]) as mount:
            self.assert_errno(errno.EIO, os.stat, mount / "default/disk.raw")
            self.assertEqual(mount.folders(), ["default"])
            self.assertIn("answered", mount.json(".fleecefs/status.json")["exports"][0]["failure"])


if __name__ == "__main__":
    lib.main()
