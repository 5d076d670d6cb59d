#!/usr/bin/env python3
"""Reports of fleecefs-backup for other programs, and runs with several VMs."""
import json
import os
import re
import shutil
import subprocess

import lib
import scripts
from vm import Disk, Vm

RULES = lib.TOP + "/contrib/prometheus/fleecefs.rules.yml"
PREFIX = "fleecefs_backup_"


class Report(scripts.Base):
    def run_backup(self, vm, *options, status=0, source=None):
        argv = self.arguments(vm, *options)
        done = lib.attempt(*argv[:-1], source or argv[-1], env=self.env)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def metrics(self, folder):
        """Returns the metrics in FOLDER's only file, by name."""
        name, = os.listdir(folder)
        self.assertRegex(name, r"^fleecefs-backup-web@last-[0-9a-f]{8}\.prom$")
        with open(f"{folder}/{name}") as f:
            text = f.read()
        if shutil.which("promtool"):
            done = lib.attempt("promtool", "check", "metrics", input=text)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        return {m[1]: int(m[2]) for m in re.finditer(
            rf'(?m)^{PREFIX}(\w+)\{{vm="web",series="last",destination="{self.to}"\}} (\d+)$', text)}

    def test_json(self):
        vm = self.vm("vda", "vdb")
        for mode in ("full", "incremental"):
            done = self.run_backup(vm, "--json", "--quiet", "--verify", "--keep", "last=1")
            # The daemon reports each disk with a full backup.
            self.assertEqual(done.stderr.count("there is no restore point"), 2 * (mode == "full"))
            self.assertEqual((done.stderr.count("\n"), done.stdout.count("\n")),
                             (2 * (mode == "full"), 1))
            said = json.loads(done.stdout)
            generation, = self.generations()
            self.assertEqual(said["disks"], [
                {"name": n, "size": 4 * lib.MIB, "mode": mode, **{
                    k: d[k] for k in ("bytes", "base", "reason") if k in d}}
                for n, d in zip(("vda", "vdb"), said["disks"])])
            self.assertEqual(said["bytes"], sum(d["bytes"] for d in said["disks"]))
            self.assertEqual({k: said[k] for k in (
                "version", "vm", "source", "tool", "destination", "series", "status", "error",
                "generation", "verified", "generations")}, {
                "version": 1, "vm": "web", "source": "qmp:" + vm.monitor, "tool": "qcow2",
                "destination": self.to, "series": "last", "status": 0, "error": None,
                "generation": generation, "verified": 100, "generations": 1})
            self.assertEqual(len(said["removed"]), mode == "incremental")
            for key in ("begun", "ended", "oldest", "newest"):
                self.assertRegex(said[key], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
            vm.scribble(self.rng)
        done = self.run_backup(vm, "--json", "-q", status=1, source="web=qmp:/nonexistent")
        said = json.loads(done.stdout)
        self.assertEqual((said["status"], said["generation"]), (1, None))
        self.assertRegex(said["error"], "no snapshot could be taken")
        self.assertIn("web: FAILED", done.stderr)

    def test_members_are_documented(self):
        """fleecefs-formats(5) documents all members and metrics."""
        vm, folder = self.vm("vda"), self.mkdir("metrics")
        done = self.run_backup(vm, "--json", "--verify", "--metrics", folder)
        with open(lib.TOP + "/src/fleecefs-formats.5") as f:
            page = f.read().partition(".Sh STORED BACKUPS")[2]
        documented = set(re.findall(r"\w+", " ".join(re.findall(r"(?m)^\.It (?:Cm|Pa) (.*)$", page))))
        said = json.loads(done.stdout)
        self.assertEqual((set(said) | set(said["disks"][0])) - documented, set())
        self.assertEqual(set(self.metrics(folder)) - documented, set())

    def test_no_folder_for_metrics(self):
        """The backup itself succeeds, and its line is printed."""
        vm = self.vm("vda")
        done = self.run_backup(vm, "--json", "--quiet", "--metrics", self.dir + "/none", status=1)
        self.assertEqual(json.loads(done.stdout)["status"], 0)
        self.assertIn(f"web: cannot write its metrics into {self.dir}/none: No such file",
                      done.stderr)

    def test_stdout_that_cannot_be_written(self):
        """The backup itself succeeds, and its metrics are written."""
        vm, metrics = self.vm("vda"), self.mkdir("metrics")
        with open("/dev/full", "w") as full:
            done = lib.attempt(*self.arguments(vm, "--quiet", "--json", "--metrics", metrics), env=self.env,
                               stdout=full)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"fleecefs-backup: web: cannot write its line of JSON to stdout: "
                         r"No space left on device\n\Z")
        self.assertEqual(len(os.listdir(metrics)), 1)
        self.assertEqual(len(self.generations()), 1)

    def test_metrics(self):
        vm, folder = self.vm("vda"), self.mkdir("metrics")
        self.run_backup(vm, "--metrics", folder)
        first = self.metrics(folder)
        self.assertEqual((first["failures_total"], first["last_status"], first["generations"],
                          first["last_success_full"]), (0, 0, 1, 1))
        self.assertEqual(first["last_run_timestamp_seconds"], first["last_success_timestamp_seconds"])
        self.run_backup(vm, "--metrics", folder, status=1, source="web=qmp:/nonexistent")
        self.run_backup(vm, "--metrics", folder, status=1, source="web=qmp:/nonexistent")
        second = self.metrics(folder)
        self.assertEqual((second["failures_total"], second["last_status"]), (2, 1))
        for name in ("last_success_timestamp_seconds", "last_success_bytes", "generations"):
            self.assertEqual(second[name], first[name])
        vm.scribble(self.rng)
        self.run_backup(vm, "--metrics", folder)
        third = self.metrics(folder)
        self.assertEqual((third["failures_total"], third["last_status"], third["generations"],
                          third["last_success_full"]), (2, 0, 2, 0))
        self.assertGreaterEqual(third["newest_timestamp_seconds"], third["oldest_timestamp_seconds"])

    def alerts(self, *tests):
        """Tests the rules with promtool; each of TESTS: (metrics, hours, names of the alerts then)."""
        said = {"rule_files": [RULES], "evaluation_interval": "1h", "tests": []}
        with open(RULES) as f:
            alerts = re.findall(r"alert: (\w+)", f.read())
        for metrics, hours, expected in tests:
            labels = {"vm": "web", "series": "last", "destination": self.to}
            of = "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"
            said["tests"].append({
                "interval": "1h",
                "input_series": [{"series": PREFIX + name + of, "values": f"{value}x{hours}"}
                                 for name, value in metrics.items()],
                # Firing alerts also expand their templates.
                "promql_expr_test": [{
                    "expr": f'count(ALERTS{{alertname="{a}",alertstate="firing"}}) or vector(0)',
                    "eval_time": f"{hours}h",
                    "exp_samples": [{"labels": "{}", "value": int(a in expected)}]} for a in alerts]})
        path = self.path("alerts.yml")
        with open(path, "w") as f:
            json.dump(said, f)  # which is YAML, too
        lib.run("promtool", "check", "rules", RULES)
        lib.run("promtool", "test", "rules", path)

    def test_an_alert_fires_when_a_backup_is_missed(self):
        """With the metrics of real runs; promtool's clock starts at the first."""
        lib.require("promtool")
        vm, folder = self.vm("vda"), self.mkdir("metrics")
        self.run_backup(vm, "--metrics", folder)
        good = self.metrics(folder)
        begin = good["last_run_timestamp_seconds"]
        self.run_backup(vm, "--metrics", folder, status=1, source="web=qmp:/nonexistent")
        bad = self.metrics(folder)
        never = self.mkdir("metrics")
        self.run_backup(vm, "--metrics", never, status=1, source="web=qmp:/nonexistent")
        never = self.metrics(never)
        good, bad, never = ({n: max(0, v - begin) if "timestamp" in n else v for n, v in m.items()}
                            for m in (good, bad, never))
        self.alerts((good, 25, set()), (good, 27, {"BackupMissed"}), (bad, 25, {"BackupFailed"}),
                    (bad, 27, {"BackupFailed", "BackupMissed"}),
                    (never, 1, {"BackupFailed", "BackupNeverSucceeded"}),
                    ({**good, "last_status": 3}, 2, {"BackupLeftSomething"}))

    def test_hooks(self):
        vm, log = self.vm("vda"), self.path("log")
        hooks = ["--before", f'echo "before $FLEECEFS_VM $FLEECEFS_SOURCE" >> {log}',
                 "--after", f'echo "after $FLEECEFS_STATUS $FLEECEFS_REPORT" >> {log}']
        self.run_backup(vm, *hooks)
        self.run_backup(vm, *hooks, status=1, source="web=qmp:/nonexistent")
        with open(log) as f:
            lines = f.read().splitlines()
        self.assertEqual(lines[::2], [f"before web qmp:{vm.monitor}", "before web qmp:/nonexistent"])
        for line, status in zip(lines[1::2], (0, 1)):
            self.assertTrue(line.startswith(f"after {status} "), line)
            self.assertEqual(json.loads(line[len("after 0 "):])["status"], status)
        # If --before fails there is no backup; if --after fails, the backup counts as failed.
        self.backup(vm, "--before", "exit 3", status=1, says="FAILED: the command 'exit 3' has failed")
        self.assertEqual(len(self.generations()), 1)
        self.backup(vm, "--after", "exit 3", status=1, says="the command 'exit 3' has failed")
        self.assertEqual(len(self.generations()), 2)

    def test_rate(self):
        """The mount has the limit while the tool reads; an invalid one leaves no snapshot."""
        vm, seen = self.vm("vda"), self.path("seen")
        with open(self.env["PATH"].split(":")[0] + "/sync", "w") as f:
            f.write(f'#!/bin/sh\ncat {self.mnt}/.fleecefs/status.json > {seen}\nexec /bin/sync "$@"\n')
            os.fchmod(f.fileno(), 0o755)
        self.backup(vm, "--rate", "64M/s")
        with open(seen) as f:
            self.assertEqual(json.load(f)["rate_limit"], 64 * lib.MIB)
        self.backup(vm, "--rate=fast", status=2, says="option rate: 'fast' is not a size")

    def test_several_at_a_time(self):
        """Two are mounted at once: each waits for the other before it ends."""
        vms = [Vm(self, [Disk(self, "vda", size=lib.MIB)]) for _ in range(3)]
        mounts = [f"{self.env['RUNTIME_DIRECTORY']}/vm{i}/mnt" for i in range(3)]
        for mnt in mounts:
            self.defer(lib.attempt, "umount", "-lq", mnt)
        path = self.env["PATH"].split(":")[0] + "/sync"
        with open(path, "w") as f:
            f.write(f"""#!/bin/sh
                : > {self.dir}/"$(basename "$2")".here
                case $2 in *vm[01]) while ! [ -e {self.dir}/vm0.here -a -e {self.dir}/vm1.here ]; do
                    sleep 0.05; done;; esac
                exec /bin/sync "$@"\n""")
        os.chmod(path, 0o755)
        for vm in vms:
            vm.state = self.env["FLEECEFS_STATE_DIR"]
            vm.scribble(self.rng)
        named = [f"vm{i}=qmp:{vm.monitor}" for i, vm in enumerate(vms)]
        done = lib.attempt(scripts.BACKUP, "-j2", "--json", "-o", "scratch=" + self.dir, "qcow2", self.to,
                           *named, "gone=qmp:/nonexistent", env=self.env)
        self.assertEqual(done.returncode, 1, done.stderr)
        said = {r["vm"]: r["status"] for r in map(json.loads, done.stdout.splitlines())}
        self.assertEqual(said, {"vm0": 0, "vm1": 0, "vm2": 0, "gone": 1})
        for i, vm in enumerate(vms):
            self.assertTrue(self.restore(f"{self.to}/vm{i}") == vm.disks["vda"].model)
            self.assertEqual(vm.leftovers(), [])

    def test_several_are_stopped(self):
        vms = [Vm(self, [Disk(self, "vda", size=lib.MIB)]) for _ in range(2)]
        for vm in vms:
            vm.state = self.env["FLEECEFS_STATE_DIR"]
        path = self.env["PATH"].split(":")[0] + "/sync"
        with open(path, "w") as f:
            f.write(f'#!/bin/sh\nprintf x >> {self.dir}/gate\nexec sleep 1000\n')
        os.chmod(path, 0o755)
        os.mkfifo(self.dir + "/gate")
        gate = os.open(self.dir + "/gate", os.O_RDWR)
        self.defer(os.close, gate)
        process = subprocess.Popen(
            [scripts.BACKUP, "-j2", "-o", "scratch=" + self.dir, "qcow2", self.to,
             *(f"vm{i}=qmp:{vm.monitor}" for i, vm in enumerate(vms))],
            env=self.env, stderr=subprocess.PIPE, text=True, preexec_fn=lib.die_with_us)
        here = b""
        while len(here) < len(vms):
            here += os.read(gate, 1)
        process.terminate()
        said = process.communicate(timeout=lib.PATIENCE)[1]
        self.assertEqual(process.returncode, 128 + 15, said)
        for vm in vms:
            self.assertEqual(vm.leftovers(), [])
        self.assertEqual(os.listdir(self.to), [])


if __name__ == "__main__":
    lib.main()
