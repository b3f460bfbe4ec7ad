"""Records of docs/log-format.md, section 4, and their form in JSON, section 10."""

import base64
import json
import re
import struct
import unicodedata
from typing import NamedTuple

from layout import Damage, NewerVersion

NEWEST = 4  # record version
MAX_I32 = 2**31 - 1
MAX_SUBJECT = 255  # bytes
MAX_BODY = 16_777_216  # bytes
MAX_KEY = 255  # bytes
MAX_TRACEPARENT = 128  # bytes
MAX_TAKEN_OVER = 1_048_576  # bytes of a record of version 3 or 4

# Microseconds between which `published_at` is a date.
_EARLIEST, _LATEST = -377705023201000000, 253402207200000000

_U64 = struct.Struct("<Q")
_MIDDLE = struct.Struct("<IqI")
_ID = struct.Struct("<I")
_KEY = struct.Struct("<16s16sqI")


class Message(NamedTuple):
    subject: str
    id: int
    published_at_us: int
    expiration_seconds: int
    body: bytes
    idempotency_key: str = ""
    traceparent: str = ""


class Mark(NamedTuple):
    subject: str
    id: int


class Key(NamedTuple):
    name_hash: bytes
    body_hash: bytes
    published_at_us: int
    id: int


class TakenOver(NamedTuple):
    """What a node took over from another one: `marks` or `keys`."""

    kind: str
    entries: list


def decode(file, offset, data):
    """The message or what was taken over in the bytes of a record, or None if the record was lost in a repair."""
    if not data:
        raise Damage(file, offset, "a record of 0 bytes has no version")
    version = data[0]
    if version > NEWEST:
        raise NewerVersion(file, offset, "record", version, NEWEST)
    if version == 0:
        if len(data) > 1:
            raise Damage(file, offset, f"a lost record has 1 byte, this one {len(data)}")
        return None
    if version in (3, 4):
        return _taken_over(file, offset, data, version)
    return _message(file, offset, data, version)


class _Fields:
    """Takes the fields of a record one after the other."""

    def __init__(self, file, offset, data):
        self.file, self.offset, self.data, self.at = file, offset, data, 1

    def fault(self, reason):
        return Damage(self.file, self.offset, reason)

    def numbers(self, layout, name):
        if self.at + layout.size > len(self.data):
            raise self.fault(f"it ends before its {name}")
        found = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return found

    def bytes(self, name):
        (size,) = self.numbers(_U64, f"length of the {name}")
        if self.at + size > len(self.data):
            raise self.fault(f"its {name} of {size} bytes reaches beyond the record")
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self, name):
        try:
            return self.bytes(name).decode("utf-8")
        except UnicodeDecodeError as fault:
            raise self.fault(f"its {name} is not UTF-8") from fault


def _message(file, offset, data, version):
    fields = _Fields(file, offset, data)
    subject = fields.text("subject")
    number, published, expiration = fields.numbers(_MIDDLE, "id, time and expiration")
    key = traceparent = ""
    if version == 2:
        key, traceparent = fields.text("idempotency key"), fields.text("traceparent")
        if not key and not traceparent:
            raise fields.fault("a record of version 2 has an idempotency key or a traceparent, this one neither")
    body = fields.bytes("body")
    if fields.at != len(data):
        raise fields.fault(f"{len(data) - fields.at} bytes follow its body")
    if not 1 <= number <= MAX_I32:
        raise fields.fault(f"its id {number} is not 1 to {MAX_I32}")
    if expiration > MAX_I32:
        raise fields.fault(f"its expiration {expiration} is above {MAX_I32}")
    return Message(subject, number, published, expiration, body, key, traceparent)


def _taken_over(file, offset, data, version):
    fields = _Fields(file, offset, data)
    if len(data) > MAX_TAKEN_OVER:
        raise fields.fault(f"a record of version {version} has at most {MAX_TAKEN_OVER} bytes, this one {len(data)}")
    (count,) = fields.numbers(_U64, "number of entries")
    if not count:
        raise fields.fault(f"a record of version {version} has at least one entry, this one none")
    entries = []
    # An entry takes bytes: a number that is too high ends at the end of the record.
    while len(entries) < count:
        if version == 3:
            subject = fields.text("subject")
            entry = Mark(subject, *fields.numbers(_ID, "id"))
            if wrong := _broken_subject(subject):
                raise fields.fault(wrong[0])
        else:
            entry = Key(*fields.numbers(_KEY, "key"))
        if not 1 <= entry.id <= MAX_I32:
            raise fields.fault(f"its id {entry.id} is not 1 to {MAX_I32}")
        entries.append(entry)
    if fields.at != len(data):
        raise fields.fault(f"{len(data) - fields.at} bytes follow its last entry")
    return TakenOver("marks" if version == 3 else "keys", entries)


def _broken_subject(subject):
    size = len(subject.encode())
    faults = [] if 1 <= size <= MAX_SUBJECT else [f"its subject has {size} bytes"]
    return faults + (["its subject has control characters"] if _has_controls(subject) else [])


def _has_controls(text):
    return not text.isprintable() and any(unicodedata.category(c) == "Cc" for c in text)


def broken_rules(message):
    """What a writer must not have written, though a reader may take it: a list of sentences."""
    if isinstance(message, TakenOver):
        return []  # the reader has refused what breaks a rule
    faults = _broken_subject(message.subject)
    if _has_controls(message.idempotency_key):
        faults.append("its idempotency key has control characters")
    if len(message.idempotency_key.encode()) > MAX_KEY:
        faults.append(f"its idempotency key has {len(message.idempotency_key.encode())} bytes")
    if message.traceparent and not _is_traceparent(message.traceparent):
        faults.append("its traceparent is not valid by W3C Trace Context")
    if len(message.body) > MAX_BODY:
        faults.append(f"its body has {len(message.body)} bytes")
    return faults


_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]*)?", re.ASCII)


def _is_traceparent(text):
    found = _TRACEPARENT.fullmatch(text)
    if not found or len(text) > MAX_TRACEPARENT:
        return False
    version, trace, parent, beyond = found.groups()
    return version != "ff" and int(trace, 16) and int(parent, 16) and not (beyond and version == "00")


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
    if isinstance(message, TakenOver):
        return f'{{"sequence":{sequence},"{message.kind}":[{",".join(map(_entry, message.entries))}]}}'
    subject, number, published, expiration, body, key, traceparent = message
    written = _subjects.get(subject)
    if written is None:
        if len(_subjects) > 10_000:
            _subjects.clear()
        written = _subjects[subject] = json.dumps(subject, ensure_ascii=False)
    return (
        f'{{"sequence":{sequence},"subject":{written},"id":{number},"published_at":{_published_at(published)},'
        f'"expiration_seconds":{expiration},{_optional("idempotency_key", key)}'
        f'{_optional("traceparent", traceparent)}"body_base64":"{base64.b64encode(body).decode()}"}}'
    )


def _entry(entry):
    if isinstance(entry, Mark):
        return f'{{"subject":{json.dumps(entry.subject, ensure_ascii=False)},"id":{entry.id}}}'
    return (
        f'{{"name_hash":"{entry.name_hash.hex()}","body_hash":"{entry.body_hash.hex()}",'
        f'"published_at":{_published_at(entry.published_at_us)},"id":{entry.id}}}'
    )


def _optional(name, text):
    """A field with its comma; nothing if it is empty."""
    return f'"{name}":{json.dumps(text, ensure_ascii=False)},' if text else ""
