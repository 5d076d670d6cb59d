# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run tells other programs: a JSON line for each VM, and metrics for node exporter.

fleecefs-formats(5) describes both.
"""
import datetime
import hashlib
import os
import re

from . import durable
from .keep import time_of
from .text import file_name, printable

PREFIX = "fleecefs_backup_"
HELP = {
    "last_run_timestamp_seconds": "When the last backup of the VM ended, in whatever way.",
    "last_success_timestamp_seconds": "When the last backup that succeeded ended.",
    "last_success_duration_seconds": "How long that one took.",
    "last_success_bytes": "What it saved: bytes that had changed, or all data of a full backup.",
    "last_success_full": "1 if all of its disks were full, else 0.",
    "last_status": "Exit status of the last backup: 0, 1, 3, or 128 and the signal.",
    "failures_total": "Backups that failed.",
    "generations": "Generations that are stored.",
    "newest_timestamp_seconds": "When the newest of them was taken.",
    "oldest_timestamp_seconds": "When the oldest of them was taken.",
}


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def iso(time):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def new(vm, args):
    """The report of a backup of VM that begins now."""
    return {"version": 1, "vm": vm.name, "source": vm.place, "tool": args.tool,
            "destination": args.destination, "series": args.series, "begun": iso(now()),
            "status": 1, "error": None, "generation": None, "disks": [], "bytes": 0,
            "removed": [], "generations": None}


def end(report, status, error=None):
    ended = now()
    begun = datetime.datetime.fromisoformat(report["begun"].replace("Z", "+00:00"))
    report.update(ended=iso(ended), seconds=max(0, round((ended - begun).total_seconds())),
                  status=status, error=error and printable(error))


def count(report, names):
    """Adds what is stored after all: the generations NAMES."""
    times = sorted(t for t in map(time_of, names) if t)
    report["generations"] = len(names)
    for key, time in zip(("oldest", "newest"), (times[:1], times[-1:])):
        report[key] = iso(time[0].astimezone(datetime.timezone.utc)) if time else None


def _seconds(text):
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def _read(path, labels):
    """The metrics of an earlier run, by name."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8", errors="replace") as f:
        return {m[1]: m[2] for line in f if (m := re.fullmatch(
            re.escape(PREFIX) + r"(\w+)" + re.escape(labels) + r" ([0-9.]+)\n", line))}


def label(text):
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write_metrics(folder, report):
    """A file of FOLDER for this VM and series. What a backup that fails does not know stays as it
    was."""
    where = hashlib.sha256(f"{report['tool']}\n{report['destination']}".encode()).hexdigest()[:8]
    path = os.path.join(folder, f"fleecefs-backup-{file_name(report['vm'])}@"
                        f"{file_name(report['series'])}-{where}.prom")
    labels = "{" + ",".join(f'{name}="{label(printable(report[name]))}"'
                            for name in ("vm", "series", "destination")) + "}"
    said = _read(path, labels)
    ended, good = _seconds(report["ended"]), report["generation"] is not None
    said["last_run_timestamp_seconds"] = ended
    said["last_status"] = report["status"]
    said["failures_total"] = int(said.get("failures_total", 0)) + (not good)
    if good:
        said["last_success_timestamp_seconds"] = ended
        said["last_success_duration_seconds"] = report["seconds"]
        said["last_success_bytes"] = report["bytes"]
        said["last_success_full"] = int(all(d["mode"] == "full" for d in report["disks"]))
    if report["generations"] is not None:
        said["generations"] = report["generations"]
        for key in ("newest", "oldest"):
            if report.get(key):
                said[key + "_timestamp_seconds"] = _seconds(report[key])
    lines = []
    for name, text in HELP.items():
        if name in said:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {PREFIX}{name} {text}\n", f"# TYPE {PREFIX}{name} {kind}\n",
                      f"{PREFIX}{name}{labels} {said[name]}\n"]
    # Node exporter, which is another user, reads it.
    durable.write(path, "".join(lines), mode=0o644)
