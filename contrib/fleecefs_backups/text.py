# SPDX-License-Identifier: LGPL-2.1-or-later
"""Printable text, file names, and times as users write them."""
import datetime
import hashlib
import os
import re

PROGRAMS = ("qemu-img", "virsh", "tar", "sync")  # that the scripts run without commands.py
LIMITS = " (limits: ulimit -u, TasksMax= of the service, pids.max of the container)"
NAME_MAX = 200  # bytes; file systems allow 255, and a name gets prefixes and suffixes


def printable(text):
    """Returns TEXT with control characters and the like, which affect terminals, as \\xNN."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                   for c in str(text))


def plain(error):
    """Returns what an exception says, as in the message of a command; Python would show
    "[Errno 2] No such file or directory: 'name'"."""
    if isinstance(error, (KeyError, TypeError, AttributeError, RecursionError)):
        return f"a file of a backup or a mount has unexpected contents ({type(error).__name__}: {error})"
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if isinstance(error, FileNotFoundError) and error.filename in PROGRAMS:
        return f"{error.filename} is not installed"
    if isinstance(error, BlockingIOError) and error.filename is None:
        return f"cannot start a process: {error.strerror}{LIMITS}"
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, (str, bytes))]
    return ": ".join([" and ".join(names), error.strerror] if names else [error.strerror])


def human(size):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size /= 1024
    else:
        unit = "TiB"
    return f"{size:.4g} {unit}"


def file_name(name):
    """Returns the name of the VM NAME in file systems and repositories.

    The mapping is injective. Percent-encodes what file systems, borg ("repository::archive", "{now}"),
    "host:path" or command lines could interpret.
    """
    def encode(match):
        return "".join(f"%{b:02X}" for b in match[0].encode("utf-8", "surrogateescape"))

    encoded = re.sub(r"[^\w .,;!?&@#$+=~^()'\[\]<>|*-]|^[.-]", encode, name)
    raw = encoded.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_MAX:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        head = raw[:NAME_MAX - len(digest) - 2].decode("utf-8", "ignore")
        # Unique: in encoded names, hex digits follow each "%".
        encoded = f"{re.sub('%.?$', '', head)}%%{digest}"
    return encoded


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = datetime.timedelta(days=1)


def day_of(word, today):
    """Returns the start of the day that WORD means; None if it means none."""
    if word in ("today", "yesterday"):
        return today - (word == "yesterday") * DAY
    if word in WEEKDAYS:
        return today - (today.weekday() - WEEKDAYS.index(word)) % 7 * DAY
    return None


def end_of_date(text):
    """Returns the end of an ISO 8601 date or time; None if TEXT is neither."""
    form = re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|[+-]\d\d:?\d\d)?)?", text,
                        re.IGNORECASE)
    if not form:
        return None
    try:
        # Python 3.10 and older do not parse "Z".
        end = datetime.datetime.fromisoformat(
            re.sub("Z$", "+00:00", re.sub(" (?=[Z+-])", "", text.upper())))
        if form[3]:
            return end
        return end + (DAY if form[1] is None else datetime.timedelta(
            **{"seconds" if form[2] else "minutes": 1}))
    except (ValueError, OverflowError):
        return None


def end_of(when, now=None):
    """Returns the end, in UTC, of the day, minute or second named by WHEN, which is local time unless it
    has a zone; None if WHEN is not a time. Same as the daemon's fl_when_end()."""
    now = now or datetime.datetime.now().astimezone()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    text = when.strip()
    word, _, time = text.partition(" ")
    ago = re.fullmatch(r"(\d{1,6}) (minute|hour|day|week)s? ago", text.lower())
    day = day_of(word.lower(), today)
    if text.lower() == "now":
        end = now
    elif ago:
        end = now - int(ago[1]) * datetime.timedelta(**{ago[2] + "s": 1})
        if ago[2] in ("day", "week"):
            end = end.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) + DAY
    elif day:
        end = end_of_date(f"{day:%Y-%m-%d} {time}") if time else day + DAY
    else:
        end = end_of_date(text)
    return end and end.astimezone(datetime.timezone.utc)


def moment(iso):
    """Parses a point_in_time of info.json; None if it is invalid."""
    try:
        # Python 3.10 and older parse neither "Z" nor fractions of one digit.
        when = datetime.datetime.fromisoformat(
            re.sub(r"(\.\d{1,6})\d*", lambda m: m[1].ljust(7, "0"), iso).replace("Z", "+00:00"))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=datetime.timezone.utc)
