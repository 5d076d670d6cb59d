# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of files that a power cut leaves done or not done, never halfway."""
import json
import os


def sync(path):
    """What the file or folder PATH holds is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(old, new):
    """OLD, which is durable, takes the place of NEW."""
    os.rename(old, new)
    sync(os.path.dirname(new))


def hidden(path):
    """What PATH is called while it is being made."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.part")


def write(path, text, mode=0o444):
    """The file PATH holds TEXT from now on."""
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
