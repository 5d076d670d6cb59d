# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that fleecefs-backup runs, and the signals that end it.

Signals are blocked but in run() and interruptible(): nothing else has to expect them.
"""
import contextlib
import os
import signal
import subprocess
import sys

from .text import printable

FLEECEFS = os.environ.get("FLEECEFS", "fleecefs")
STOPPING = {s for s in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(s) != signal.SIG_IGN}


class Failed(Exception):
    """This VM was not backed up."""


class Stopped(Exception):
    """A signal came."""


quiet = False  # whether to tell only of what went wrong


def log(text):
    print("fleecefs-backup:", printable(text), file=sys.stderr, flush=True)


def tell(text):
    """Of what goes well."""
    if not quiet:
        log(text)


def unblock():
    """In a child: commands get their signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask(*argv, quiet=False):
    """What a command prints; one that fails fails the VM, QUIET with what it said itself."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE if quiet else None, preexec_fn=unblock)
    except FileNotFoundError:
        raise Failed(f"{argv[0]} is not installed") from None
    if done.returncode != 0:
        said = (done.stderr or b"").decode("utf-8", "replace").strip().split("\n")[0]
        raise Failed(f"{argv[0]} has failed: {said or f'exit status {done.returncode}'}")
    return done.stdout.decode("utf-8", "surrogateescape")


def run(*argv, idle=None, stoppable=True, **kwargs):
    """Runs a command to its end, calling IDLE every second; returns its exit status.

    Signals are blocked at all other times: only here, and if STOPPABLE, they end the backup.
    """
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=not stoppable,
                               preexec_fn=unblock, **kwargs)
    heard = {signal.SIGCHLD} | (STOPPING if stoppable else set())
    while process.poll() is None:
        came = signal.sigtimedwait(heard, 1)
        if came is None:
            if idle:
                idle()
        elif came.si_signo != signal.SIGCHLD:
            process.terminate()
            process.wait()
            raise Stopped(came.si_signo)
    return process.returncode


@contextlib.contextmanager
def reading(*argv):
    """What a command prints, as a stream; Failed if it fails."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               preexec_fn=unblock)
    try:
        yield process.stdout
        process.stdout.read()  # what follows the end of an archive
        if process.wait() != 0:
            raise Failed(f"{argv[0]} has failed: exit status {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def interruptible():
    """Here signals raise Stopped at any moment."""
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
