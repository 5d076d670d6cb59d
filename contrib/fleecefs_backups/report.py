# SPDX-License-Identifier: LGPL-2.1-or-later
"""Output for other programs: a JSON line for each VM, and metrics for node exporter.

fleecefs-formats(5) describes both.
"""
import datetime
import hashlib
import os
import re

from . import durable
from .keep import time_of
from .text import file_name, plain, printable

PREFIX = "fleecefs_backup_"
HELP = {
    "last_run_timestamp_seconds": "When the last backup of the VM ended, successful or not.",
    "last_success_timestamp_seconds": "When the last successful backup ended.",
    "last_success_duration_seconds": "Duration of the last successful backup.",
    "last_success_bytes": "Bytes that it saved: changed bytes, or all data of a full backup.",
    "last_success_full": "1 if it was full for all disks, else 0.",
    "last_status": "Exit status of the last backup: 0, 1, 3, or 128 and the signal.",
    "failures_total": "Number of failed backups.",
    "generations": "Number of stored generations.",
    "newest_timestamp_seconds": "Time of the newest stored generation.",
    "oldest_timestamp_seconds": "Time of the oldest stored generation.",
}


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def iso(time):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def new(vm, args):
    """Creates the report of a backup of VM that starts now."""
    return {"version": 1, "vm": vm.name, "source": vm.place, "tool": args.tool,
            "destination": args.destination, "series": args.series, "begun": iso(now()),
            "status": 1, "error": None, "generation": None, "disks": [], "bytes": 0,
            "removed": [], "generations": None}


def end(report, status, error=None):
    ended = now()
    begun = datetime.datetime.fromisoformat(report["begun"].replace("Z", "+00:00"))
    report.update(ended=iso(ended), seconds=max(0, round((ended - begun).total_seconds())),
                  status=status, error=error and printable(plain(error)))


def count(report, names):
    """Adds number, oldest and newest of the generations NAMES, stored in the end."""
    times = sorted(t for t in map(time_of, names) if t)
    report["generations"] = len(names)
    for key, time in zip(("oldest", "newest"), (times[:1], times[-1:])):
        report[key] = iso(time[0].astimezone(datetime.timezone.utc)) if time else None


def _seconds(text):
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def _read(path, labels):
    """Returns the metrics of the previous run, by name."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8", errors="replace") as f:
        return {m[1]: m[2] for line in f if (m := re.fullmatch(
            re.escape(PREFIX) + r"(\w+)" + re.escape(labels) + r" ([0-9.]+)\n", line))}


def label(text):
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def write_metrics(folder, report):
    """Writes a file in FOLDER for this VM and series. Values unknown to a failed backup keep their
    previous value."""
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
    # Node exporter runs as another user.
    durable.write(path, "".join(lines), mode=0o644)
