#!/usr/bin/env python3
"""Files that `meson install` installs; mounts by mount(8), fstab and systemd."""
import json
import os
import re
import shlex
import shutil
import stat

import disks
import lib

BUILD = os.environ.get("BUILD_ROOT") or os.path.dirname(os.path.dirname(lib.FLEECEFS[-1]))
SCRIPTS = ("fleecefs-backup", "fleecefs-restore", "fleecefs-map")
CHANGED = "fleecefs-changed"


class Install(lib.TestCase):
    def test_files(self):
        lib.require("systemd-analyze")
        root = self.mkdir("root")
        lib.run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root)
        options = json.loads(lib.run("meson", "introspect", BUILD, "--buildoptions"))
        prefix = root + next(o["value"] for o in options if o["name"] == "prefix")
        found = {os.path.relpath(os.path.join(folder, f), prefix)
                 for folder, _, files in os.walk(root) for f in files}
        expected = {"bin/fleecefs", "share/man/man1/fleecefs.1", "share/man/man5/fleecefs-formats.5",
                    "share/bash-completion/completions/fleecefs",
                    "share/zsh/site-functions/_fleecefs", "share/doc/fleecefs/README.md",
                    "share/doc/fleecefs/examples/demo",
                    "share/doc/fleecefs/examples/backup.conf",
                    "share/doc/fleecefs/examples/mount.service",
                    "share/doc/fleecefs/examples/fleecefs-backup-failed@.service",
                    "share/doc/fleecefs/examples/fleecefs.rules.yml",
                    "share/doc/fleecefs/examples/apparmor"}
        modules = os.listdir(f"{lib.TOP}/contrib/fleecefs_backups")
        expected |= {f"share/fleecefs/fleecefs_backups/{n}" for n in modules if n.endswith(".py")}
        units = {f"lib/systemd/system/fleecefs-backup@.{kind}" for kind in ("service", "timer")}
        programs = list(SCRIPTS)
        if os.path.exists(f"{BUILD}/src/changed/{CHANGED}"):
            programs.append(CHANGED)
        for name in programs:
            expected |= {"bin/" + name, f"share/man/man1/{name}.1",
                         "share/bash-completion/completions/" + name}
        self.assertEqual(found, expected | units)
        for name in ("fleecefs", *programs):
            self.assertTrue(os.stat(f"{prefix}/bin/{name}").st_mode & stat.S_IXOTH, name)
            self.assertIn("-h, --help", lib.run(f"{prefix}/bin/{name}", "--help"))

        # The script is not installed yet at the path in the units.
        for unit in units:
            with open(f"{prefix}/{unit}") as f:
                text = re.sub(r"(?m)^ExecStart=", f"ExecStart={root}", f.read())
            with open(f"{self.dir}/{os.path.basename(unit)}", "w") as f:
                f.write(text)
        exposure = re.search(r"exposure level for \S+: (\d+\.\d)", lib.run(
            "systemd-analyze", "security", "--offline=true", "--no-pager",
            f"{self.dir}/fleecefs-backup@.service"))
        self.assertLess(float(exposure[1]), 3)
        for kind in ("service", "timer"):
            done = lib.attempt("systemd-analyze", "verify", "--man=no",
                               f"{self.dir}/fleecefs-backup@web.{kind}")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(f"{prefix}/share/doc/fleecefs/examples/mount.service") as f:
            text = f.read().replace("=fleecefs ", f"={prefix}/bin/fleecefs ")
        with open(f"{self.dir}/srv-web.service", "w") as f:
            f.write(text)
        done = lib.attempt("systemd-analyze", "verify", "--man=no", f"{self.dir}/srv-web.service")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        shutil.copy(f"{prefix}/share/doc/fleecefs/examples/fleecefs-backup-failed@.service", self.dir)
        done = lib.attempt("systemd-analyze", "verify", "--man=no",
                           f"{self.dir}/fleecefs-backup-failed@web.service")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_mail(self):
        """The example of OnFailure= mails the service's output to root."""
        with open(f"{lib.TOP}/contrib/systemd/fleecefs-backup-failed@.service") as f:
            line = re.search("(?m)^ExecStart=(.*)$", f.read())[1]
        programs = self.mkdir("programs")
        for name, script in (("systemctl", 'echo "$@" > asked; echo "web: FAILED: gone"; exit 3'),
                             ("mail", 'printf "%s\\n" "$@" > to; cat > body')):
            with open(f"{programs}/{name}", "w") as f:
                f.write(f"#!/bin/sh\ncd {self.dir}\n{script}\n")
            os.chmod(f.name, 0o755)
        # systemd quotes like a shell, splits words before it expands %i, and expands $ only before a
        # name or a brace. The name of a domain is never run by a shell.
        self.assertNotRegex(line, r"\$[A-Za-z_{]")
        domain = "my web $(touch run)\"`touch run`"
        argv = [w.replace("%I", domain).replace("%i", "my\\x20web") for w in shlex.split(line)]
        lib.run(*argv, cwd=self.dir, env={"PATH": programs + ":/usr/bin:/bin"})
        said = {}
        for name in ("asked", "to", "body"):
            with open(f"{self.dir}/{name}") as f:
                said[name] = f.read()
        self.assertEqual(said["to"], "-s\nBackup of " + domain + " has failed\nroot\n")
        self.assertFalse(os.path.exists(self.dir + "/run"))
        self.assertEqual(said["body"], "web: FAILED: gone\n")
        self.assertRegex(said["asked"], r"^status .*fleecefs-backup@my.*web\.service$")

    def check_mount(self, *argv, **env):
        """Mounts with ARGV, whose last argument is the mount point; unmounts with umount."""
        env = {**self.environment(), **env}
        # mount(8) ignores our PATH, so the program is installed in a private mount namespace. Copies of
        # other tests' mounts there would prevent their unmount.
        script = """umount --lazy --all --types fuse.fleecefs
            set -e
            mount --bind "${PATH%%:*}" /usr/local/bin
            "$@"
            test "$(stat -c %s "${!#}/vm/disk.raw")" = 1048576
            pid=$(jq .pid "${!#}/.fleecefs/status.json")
            umount "${!#}"
            tail --pid="$pid" --sleep-interval=0.1 --follow /dev/null
            ! mountpoint -q "${!#}" """
        lib.run("unshare", "--mount", "--pid", "--mount-proc", "--fork",
                "bash", "-c", script, "bash", *argv, env=env)

    def test_mount(self):
        if os.geteuid() != 0:
            self.skipTest("mount(8) needs root")
        image = disks.create(os.path.join(self.dir, "vm.qcow2"), size="1M")
        point = self.mkdir("mnt")
        self.check_mount("mount", "-t", "fuse.fleecefs", image, point)
        self.check_mount("mount", "-t", "fuse.fleecefs", "-o", "ro,allow_other,connections=2",
                         image, point)
        fstab = self.path("fstab")
        with open(f"{lib.TOP}/src/fleecefs.1") as f:
            line = re.search(r"(?m)^(/srv/\S+ +)(/mnt/\S+)( +fuse.fleecefs .*)$", f.read())
        with open(fstab, "w") as f:
            f.write(line.group().replace("/srv/vda.qcow2", image).replace("/mnt/vda", point) + "\n")
        self.check_mount("mount", point, LIBMOUNT_FSTAB=fstab)
        server = self.qemu_nbd(image, "-r", "-f", "qcow2", "-x", "vm")
        with open(fstab, "w") as f:
            f.write(f"{server.export_uri('vm')} {point} fuse.fleecefs noauto,_netdev,nofail 0 0\n")
        self.check_mount("mount", point, LIBMOUNT_FSTAB=fstab)


if __name__ == "__main__":
    lib.main()
