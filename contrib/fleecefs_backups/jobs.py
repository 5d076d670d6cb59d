# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs everything: parallel backups of all VMs, then retention and reports."""
import json
import os
import signal
import sys
import tempfile
import traceback

from . import report, retention, stored
from .backup import back_up
from .commands import STOPPING, Failed, Stopped, log, run
from .sources import sources
from .text import plain
from .tools import TOOLS

FAULTS = (Failed, stored.Damaged, stored.Refused, OSError, ValueError, KeyError, TypeError,
          AttributeError, RecursionError)


def hook(command, vm, said, status=""):
    """Runs a user's COMMAND before or after the backup of a VM."""
    if command and run("/bin/sh", "-c", command, env={
            **os.environ, "FLEECEFS_VM": vm.name, "FLEECEFS_SOURCE": vm.source,
            "FLEECEFS_STATUS": str(status), "FLEECEFS_REPORT": json.dumps(said)},
            stdout=sys.stderr) != 0:  # stdout is for --json
        raise Failed(f"the command '{command}' has failed")


def one(vm, args):
    """Backs up one VM; returns its report."""
    said = report.new(vm, args)
    try:
        hook(args.before, vm, said)
        report.end(said, back_up(vm, args, said))
    except FAULTS as error:
        log(f"{vm.name}: FAILED: {plain(error)}")
        report.end(said, 1, error)
    except Stopped as stop:
        report.end(said, 128 + stop.args[0], "stopped by a signal")
        return said
    try:
        hook(args.after, vm, said, said["status"])
    except Failed as error:
        log(f"{vm.name}: {plain(error)}")
        said.update(status=1, error=said["error"] or plain(error))
    except Stopped as stop:
        said.update(status=128 + stop.args[0], error="stopped by a signal")
    return said


class Child:
    """A process that backs up one VM."""

    def __init__(self, vm, args):
        self.vm, self.said = vm, tempfile.TemporaryFile("w+")
        self.args, self.begun = args, report.new(vm, args)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                json.dump(one(vm, args), self.said)
                self.said.flush()
            except BaseException:  # a bug, which ends in this process
                traceback.print_exc()
            finally:
                os._exit(0)

    def ended(self):
        """Returns its report if it has ended, else None."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.said.seek(0)
        try:
            with self.said:
                return json.load(self.said)
        except ValueError:
            why = f"its process was killed by signal {os.WTERMSIG(status)}" \
                if os.WIFSIGNALED(status) else "its process has crashed"
            log(f"{self.vm.name}: FAILED: {why}")
            report.end(self.begun, 1, why)
            return self.begun


def several(vms, args, reports):
    """Backs up VMS, --jobs in parallel; appends to REPORTS."""
    waiting, children, stop = list(vms), [], None
    while waiting or children:
        while waiting and len(children) < args.jobs:
            vm = waiting.pop(0)
            try:
                children.append(Child(vm, args))
            except OSError as error:  # no further process
                log(f"{vm.name}: FAILED: {plain(error)}")
                said = report.new(vm, args)
                report.end(said, 1, error)
                reports.append((vm, said))
        came = signal.sigtimedwait({signal.SIGCHLD} | STOPPING, 1)
        if came and came.si_signo != signal.SIGCHLD:
            stop, waiting = stop or came.si_signo, []
            for child in children:
                os.kill(child.pid, signal.SIGTERM)
        for child in list(children):
            said = child.ended()
            if said:
                children.remove(child)
                reports.append((child.vm, said))
    if stop:
        raise Stopped(stop)


def all_backups(vms, args, reports):
    if args.jobs > 1 and len(vms) > 1:
        return several(vms, args, reports)
    for vm in vms:
        said = one(vm, args)
        reports.append((vm, said))
        if said["status"] >= 128:
            raise Stopped(said["status"] - 128)


def look_after(vm, said, args):
    """Removes older generations after a successful backup of a VM."""
    if not args.keep:
        return
    try:
        said["removed"] = retention.prune(vm, args)
    except FAULTS as error:
        log(f"{vm.name}: the backup succeeded, but older ones could not be removed: {plain(error)}")
        said.update(status=1, error=f"older generations could not be removed: {plain(error)}")


def tell_what_would_go(vms, args):
    status = 0
    for vm in vms:
        try:
            retention.prune(vm, args)
        except FAULTS as error:
            log(f"{vm.name}: {plain(error)}")
            status = 1
    return status


def publish(vm, said, args):
    """Prints or writes the report of a VM as requested; returns the exit status."""
    status = 0
    try:
        report.count(said, list(TOOLS[args.tool](args.destination, vm.file).generations()))
    except FAULTS:
        pass  # an unresponsive destination was reported already
    if args.json:
        try:
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
        except OSError as error:
            log(f"{vm.name}: cannot write its line of JSON to stdout: {error.strerror}")
            # Nothing can be written at the end of the program, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
    if args.metrics:
        try:
            report.write_metrics(args.metrics, said)
        except OSError as error:
            log(f"{vm.name}: cannot write its metrics into {args.metrics}: {error.strerror}")
            status = 1
    return status


def run_all(args, parser):
    """Runs all of it; returns the exit status."""
    status, reports = 0, []
    try:
        vms, strange = sources(args, parser)
        status = 1 if strange else 0
        if args.dry_run:
            return max(status, tell_what_would_go(vms, args))
        try:
            all_backups(vms, args, reports)
            for vm, said in reports:
                if said["status"] in (0, 3):
                    look_after(vm, said, args)
            if any(said["removed"] for _, said in reports):
                retention.reclaim(args)
        finally:
            for vm, said in reports:
                if args.json or args.metrics:
                    status = max(publish(vm, said, args), status)
        for _, said in reports:
            status = max(status, said["status"], key=[0, 3, 1].index)
    except FAULTS as error:
        log(error)
        status = 1
    except Stopped as stop:
        signum = stop.args[0]
        log(f"stopped by {signal.Signals(signum).name}: incomplete backups were aborted")
        status = 128 + signum
    return status
