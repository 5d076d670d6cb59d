# SPDX-License-Identifier: LGPL-2.1-or-later
"""Atomic and durable changes of files, also across power failures."""
import json
import os


def sync(path):
    """Flushes the file or folder PATH to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(old, new):
    """Replaces NEW by OLD, which is already durable."""
    os.rename(old, new)
    sync(os.path.dirname(new))


def hidden(path):
    """Returns the temporary name of PATH while it is being created."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.part")


def write(path, text, mode=0o444):
    """Replaces the contents of PATH by TEXT."""
    part = hidden(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as f:
        f.write(text)
        f.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)
    rename(part, path)


def write_json(path, said):
    write(path, json.dumps(said, indent=1) + "\n")


def remove(path):
    if os.path.lexists(path):
        os.unlink(path)
        sync(os.path.dirname(path))


def mark(path, why):
    """Writes WHY to the file PATH, or removes the file if WHY is empty. Returns "", or the failure,
    worded as the end of a sentence."""
    try:
        if why:
            write(path, why + "\n")
        else:
            remove(path)
    except OSError as error:
        return f"; it could not be recorded in {path}: {error.strerror}"
    return ""
