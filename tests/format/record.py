"""Records of docs/log-format.md, section 4, and their form in JSON, section 10."""

import base64
import json
import struct
import unicodedata
from typing import NamedTuple

from layout import Damage, NewerVersion

NEWEST = 1  # record version
MAX_I32 = 2**31 - 1
MAX_SUBJECT = 255  # bytes
MAX_BODY = 16_777_216  # bytes

# Microseconds between which `published_at` is a date.
_EARLIEST, _LATEST = -377705023201000000, 253402207200000000

_U64 = struct.Struct("<Q")
_MIDDLE = struct.Struct("<IqIQ")


class Message(NamedTuple):
    subject: str
    id: int
    published_at_us: int
    expiration_seconds: int
    body: bytes


def decode(file, offset, data):
    """The message in the bytes of a record, or None if the record was lost in a repair."""
    if not data:
        raise Damage(file, offset, "a record of 0 bytes has no version")
    version = data[0]
    if version > NEWEST:
        raise NewerVersion(file, offset, "record", version, NEWEST)
    if version == 0:
        if len(data) > 1:
            raise Damage(file, offset, f"a lost record has 1 byte, this one {len(data)}")
        return None
    return _message(file, offset, data)


def _message(file, offset, data):
    if len(data) < 33:
        raise Damage(file, offset, f"a record of version 1 has at least 33 bytes, this one {len(data)}")
    (subject_bytes,) = _U64.unpack_from(data, 1)
    if 33 + subject_bytes > len(data):
        raise Damage(file, offset, f"its subject of {subject_bytes} bytes reaches beyond the record")
    middle = 9 + subject_bytes
    number, published, expiration, body_bytes = _MIDDLE.unpack_from(data, middle)
    body = data[middle + 24 :]
    if body_bytes != len(body):
        raise Damage(file, offset, f"its body has {body_bytes} bytes by its length, but {len(body)} are left")
    try:
        subject = data[9:middle].decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Damage(file, offset, "its subject is not UTF-8") from fault
    if not 1 <= number <= MAX_I32:
        raise Damage(file, offset, f"its id {number} is not 1 to {MAX_I32}")
    if expiration > MAX_I32:
        raise Damage(file, offset, f"its expiration {expiration} is above {MAX_I32}")
    return Message(subject, number, published, expiration, body)


def broken_rules(message):
    """What a writer must not have written, though a reader may take it: a list of sentences."""
    faults = []
    size = len(message.subject.encode())
    if not 1 <= size <= MAX_SUBJECT:
        faults.append(f"its subject has {size} bytes")
    if not message.subject.isprintable() and any(unicodedata.category(c) == "Cc" for c in message.subject):
        faults.append("its subject has control characters")
    if len(message.body) > MAX_BODY:
        faults.append(f"its body has {len(message.body)} bytes")
    return faults


def rfc3339(micros):
    """A time in UTC, or None outside the calendar of the document."""
    if not _EARLIEST <= micros <= _LATEST:
        return None
    seconds, fraction = divmod(micros, 1_000_000)
    days, second = divmod(seconds, 86_400)
    year, month, day = _date(days)
    written = f"{year:04}" if year >= 0 else f"-{-year:06}"
    text = f"{written}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    if fraction:
        text += f".{fraction:06}".rstrip("0")
    return text + "Z"


def _date(days):
    """The Gregorian date so many days after 1970-01-01, for any year: years begin with March inside."""
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    return era * 400 + year + (month <= 2), month, day


_second = (None, "")  # the last whole second that was written, and how


def _published_at(micros):
    """As JSON. A log holds many records of one second: its date is worked out once."""
    global _second
    seconds, fraction = divmod(micros, 1_000_000)
    if seconds != _second[0]:
        whole = rfc3339(seconds * 1_000_000)
        _second = (seconds, whole[:-1] if whole else None)
    if _second[1] is None or not _EARLIEST <= micros <= _LATEST:
        return "null"
    if not fraction:
        return f'"{_second[1]}Z"'
    return f'"{_second[1]}.{f"{fraction:06}".rstrip("0")}Z"'


_subjects = {}  # as JSON; emptied when it grows


def line(sequence, message):
    """The line that `walcast log show` prints for a record, without the line feed."""
    if message is None:
        return f'{{"sequence":{sequence},"lost":true}}'
    subject, number, published, expiration, body = message
    written = _subjects.get(subject)
    if written is None:
        if len(_subjects) > 10_000:
            _subjects.clear()
        written = _subjects[subject] = json.dumps(subject, ensure_ascii=False)
    return (
        f'{{"sequence":{sequence},"subject":{written},"id":{number},"published_at":{_published_at(published)},'
        f'"expiration_seconds":{expiration},"body_base64":"{base64.b64encode(body).decode()}"}}'
    )
