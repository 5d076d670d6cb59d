# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs commands for fleecefs-backup, and handles the signals that end it.

Signals are blocked except in run() and interruptible(), so other code need not handle them.
"""
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from .text import plain, printable

FLEECEFS = os.environ.get("FLEECEFS", "fleecefs")
STOPPING = {s for s in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(s) != signal.SIG_IGN}
STOP_SECONDS = 60  # for a command to end when asked to


class Failed(Exception):
    """This VM was not backed up."""


class Stopped(Exception):
    """A signal was received."""


quiet = False  # print only errors and warnings


def log(text):
    """Prints a line: TEXT, or an exception."""
    # One write, so that lines of --jobs do not mix.
    sys.stderr.write(f"fleecefs-backup: {printable(plain(text))}\n")
    sys.stderr.flush()


def tell(text):
    """Prints progress."""
    if not quiet:
        log(text)


def unblock():
    """Unblocks signals in a child, for the command."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def one_line(program, said):
    """Returns the lines of a PROGRAM's stderr as one, without its name and the word "error"."""
    lines = (re.sub(rf"^({re.escape(program)}|error|Fatal): ", "", line.strip().rstrip(":"))
             for line in said.decode("utf-8", "replace").splitlines())
    return ": ".join(filter(None, lines))


def ask(*argv, quiet=False, stoppable=True):
    """Returns a command's output; raises Failed if it fails, QUIET with the command's own message, which
    otherwise is printed.
    Signals end the backup only if STOPPABLE."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        status = run(*argv, stoppable=stoppable, start_new_session=False, stdout=out,
                     stderr=errors if quiet else None)
        out.seek(0)
        errors.seek(0)
        if status != 0:
            raise Failed(f"{argv[0]} has failed: "
                         + (one_line(argv[0], errors.read()) or f"exit status {status}"))
        sys.stderr.buffer.write(errors.read())
        sys.stderr.flush()
        return out.read().decode("utf-8", "surrogateescape")


def stop(process, heard):
    """Ends PROCESS; kills it if it takes too long, or if another of the signals HEARD arrives."""
    deadline = time.monotonic() + STOP_SECONDS
    process.terminate()
    while process.poll() is None and time.monotonic() < deadline:
        came = signal.sigtimedwait(heard, 1)
        if came and came.si_signo != signal.SIGCHLD:
            break
    process.kill()
    process.wait()


def run(*argv, idle=None, stoppable=True, **kwargs):
    """Runs a command, calling IDLE every second; returns its exit status.

    Signals end the backup only here, if STOPPABLE: they are blocked otherwise.
    """
    kwargs.setdefault("start_new_session", not stoppable)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # Where signals are not blocked, their handlers end it.
    heard = {signal.SIGCHLD} | (STOPPING & held if stoppable else set())
    try:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=unblock, **kwargs)
        except FileNotFoundError as error:
            raise Failed(f"{argv[0]} is not installed" if error.filename == argv[0] else
                         plain(error)) from None
        try:
            while process.poll() is None:
                came = signal.sigtimedwait(heard, 1)
                if came is None:
                    if idle:
                        idle()
                elif came.si_signo != signal.SIGCHLD:
                    raise Stopped(came.si_signo)
        except BaseException:
            stop(process, heard)
            raise
        return process.returncode
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def reading(*argv):
    """Returns a command's output as a stream; raises Failed if the command fails."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               preexec_fn=unblock)
    try:
        yield process.stdout
        process.stdout.read()  # data after the end of an archive
        if process.wait() != 0:
            raise Failed(f"{argv[0]} has failed: exit status {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def interruptible():
    """Context in which signals raise Stopped immediately."""
    def stop(signum, _):
        raise Stopped(signum)

    before = {s: signal.signal(s, stop) for s in STOPPING}
    held = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for signum, handler in before.items():
            signal.signal(signum, handler)
