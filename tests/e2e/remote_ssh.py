#!/usr/bin/env python3
"""The user's ssh configuration, and what a login on the other host may do: jump hosts, persistent
connections, output of start-up files, umask and locale, no home directory."""
import os
import shutil

import lib
import remote_users


class Ssh(remote_users.Base):
    def back_up(self, uri, modes=("full", "incremental")):
        """Two backups, of which nothing is left."""
        for mode in modes:
            self.vm.scribble(self.rng, 1)
            expected = {n: bytes(d.model) for n, d in self.vm.disks.items()}
            self.begin(uri)
            self.check(mode, expected)
            self.end("--commit")
            self.check_nothing_left(1)

    def test_noisy_shell(self):
        """Start-up files that print, and set a umask and a locale; and no file can be written, as if /tmp
        were full."""
        home = self.mkdir("home there")
        with open(f"{home}/.bashrc", "w") as f:
            f.write("echo Welcome to the host; printf 'no newline'; echo Achtung >&2\n"
                    "umask 077; export LC_ALL=de_DE.UTF-8 LANGUAGE=de; set -u; cd /; ulimit -f 0\n")
        os.chmod(f.name, 0o644)
        uri = self.connect(shell="/bin/bash", home=home)
        self.assertIn("Welcome", self.account.run("ssh", "hv", "true"))
        self.back_up(uri)

    def test_no_home(self):
        """sshd complains about that, which is not the cause of a later error."""
        uri = self.connect(home="/nonexistent")
        self.back_up(uri)
        self.refused("qemu+ssh://hv/system?socket=/nowhere", "on hv: no socket /nowhere", points=1)

    def test_strange_config(self):
        """Options for other uses of ssh do not apply to ours."""
        self.back_up(self.connect(more="""
            StdinNull yes
            RequestTTY force
            LogLevel QUIET
            RemoteCommand false
            SessionType none
            ForkAfterAuthentication yes
            LocalForward 1 localhost:1
            """))
        self.await_end()

    def test_jump(self):
        """Through another host, and beside the user's own persistent connections to both."""
        uri = self.connect(more="""
            Host hv
              ProxyJump jump
            Host *
              ControlMaster auto
              ControlPersist yes
              ControlPath ~/.ssh/%n
            """)
        with open(f"{self.account.home}/.ssh/config", "a") as f:
            f.write(f"""
                Host jump
                  HostName 127.0.0.1
                  Port {self.server.port}
                  User member
                  IdentityFile ~/.ssh/key
                  UserKnownHostsFile ~/.ssh/known
                """)
        for host in ("hv", "jump"):
            self.defer(self.account.attempt, "ssh", "-O", "exit", host)
        self.back_up(uri)  # ssh starts the connection to "jump"
        self.account.run("ssh", "hv", "true")
        for host in ("hv", "jump"):
            self.account.run("ssh", "-O", "check", host)
        self.back_up(uri, ["incremental"])
        for host in ("hv", "jump"):
            self.account.run("ssh", "-O", "exit", host)
        self.await_end()

    def test_refused(self):
        """sshd's refusals look the same; the message tells which it was."""
        uri = self.connect(config="AllowStreamLocalForwarding no\n")
        self.refused(uri, "AllowStreamLocalForwarding")
        self.refused(self.connect(groups=()), "user member has no access to", "add the user to group libvirt")
        self.refused(self.connect(shell="/usr/sbin/nologin"), "login shell", "not available")
        shutil.copy(self.server.write_known("other", "stranger", self.server.port),
                    f"{self.account.home}/.ssh/known")
        self.account.give()
        self.refused(uri, "REMOTE HOST IDENTIFICATION HAS CHANGED", f"{self.account.home}/.ssh/known:1")


if __name__ == "__main__":
    del remote_users
    lib.main()
