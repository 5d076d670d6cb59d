# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words for people, names for files, and times as people write them."""
import datetime
import hashlib
import re

NAME_MAX = 200  # bytes; file systems allow 255, and a name gets prefixes and suffixes


def printable(text):
    """TEXT without anything that a terminal obeys: control characters and the like as \\xNN."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                   for c in str(text))


def human(size):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size /= 1024
    else:
        unit = "TiB"
    return f"{size:.4g} {unit}"


def file_name(name):
    """What the VM called NAME is called in file systems and repositories.

    No two names share one. Percent-encoded is what file systems, borg ("repository::archive",
    "{now}"), "host:path" or a command line could take for syntax.
    """
    def encode(match):
        return "".join(f"%{b:02X}" for b in match[0].encode("utf-8", "surrogateescape"))

    encoded = re.sub(r"[^\w .,;!?&@#$+=~^()'\[\]<>|*-]|^[.-]", encode, name)
    raw = encoded.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_MAX:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        head = raw[:NAME_MAX - len(digest) - 2].decode("utf-8", "ignore")
        # Never "%%" otherwise: an encoded name has hex digits after each "%".
        encoded = f"{re.sub('%.?$', '', head)}%%{digest}"
    return encoded


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = datetime.timedelta(days=1)


def day_of(word, today):
    """The midnight that the day begins with for which WORD stands; None if it stands for none."""
    if word in ("today", "yesterday"):
        return today - (word == "yesterday") * DAY
    if word in WEEKDAYS:
        return today - (today.weekday() - WEEKDAYS.index(word)) % 7 * DAY
    return None


def end_of_date(text):
    """The end of a date, or of a time of it, by ISO 8601; None if TEXT is none."""
    form = re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)? ?(Z|[+-]\d\d:?\d\d)?)?", text,
                        re.IGNORECASE)
    if not form:
        return None
    try:
        # Python 3.10 and older know no "Z".
        end = datetime.datetime.fromisoformat(
            re.sub("Z$", "+00:00", re.sub(" (?=[Z+-])", "", text.upper())))
        if form[3]:
            return end
        return end + (DAY if form[1] is None else datetime.timedelta(
            **{"seconds" if form[2] else "minutes": 1}))
    except (ValueError, OverflowError):
        return None


def end_of(when, now=None):
    """The moment in UTC until which something counts as WHEN: the end of the day, minute or second
    that it names, in local time unless it says a zone. None if WHEN is no time. The daemon knows the
    same (fl_when_end)."""
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
    """A point_in_time of info.json; None if it is none."""
    try:
        # Python 3.10 and older know neither "Z" nor a fraction of one digit.
        when = datetime.datetime.fromisoformat(
            re.sub(r"(\.\d{1,6})\d*", lambda m: m[1].ljust(7, "0"), iso).replace("Z", "+00:00"))
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=datetime.timezone.utc)
