"""The directory, the chain and the ends of a log: docs/log-format.md, sections 1, 3, 5 and 6.

`Reader` goes through a log frame by frame, of a stopped broker or beside a running one. It opens files to read
only, takes no lock, and either hands out what is valid or raises what it found.
"""

import os
import re
from typing import NamedTuple

from layout import BLOCK, FRAME_HEADER, Damage, Header, NewerVersion
from layout import frame, is_frame_header, mark, segment_header, split

_NAME = re.compile(r"[0-9]{20}\.wal", re.ASCII)
_SCAN = 1 << 20  # bytes looked through at once for a later frame header


class Trimmed(Exception):
    """The broker removed segments faster than they were read."""


class Segment(NamedTuple):
    name: str
    header: Header


class End(NamedTuple):
    """Where the newest segment ended, and how many bytes of an unfinished write follow there."""

    file: str
    offset: int
    torn: int


class _Changed(Exception):
    """The file is not the segment any more that it was in the listing: list again."""


class _File:
    """An open segment file; reads give fewer bytes than asked for only where it ends."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def size(self):
        return os.fstat(self.fd).st_size

    def read(self, offset, size):
        size = min(size, self.size() - offset)
        parts = []
        while size > 0:
            part = os.pread(self.fd, size, offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)


def _names(directory):
    """The names that end in `.wal`, of regular files, sorted."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                entry.name.encode("utf-8")
            except UnicodeEncodeError:
                continue
            if entry.name.endswith(".wal") and entry.is_file(follow_symlinks=False):
                found.append(entry.name)
    return sorted(found)


def _checked(listing):
    """The segments of a listing of (name, first block), if all headers are right and the chain is whole."""
    segments = []
    for name, block in listing:
        if not _NAME.fullmatch(name) or not 1 <= int(name[:20]) < 2**64:
            raise Damage(name, 0, "no segment has such a name")
        header = segment_header(name, int(name[:20]), block)
        if segments:
            before = segments[-1].header
            if header.log_id != before.log_id:
                raise Damage(name, 16, f"it belongs to log {header.log_id}, the one before to {before.log_id}")
            if header.previous_first != before.first:
                raise Damage(name, 64, f"it follows the segment of {header.previous_first}, not of {before.first}")
            if header.epoch < before.epoch:
                raise Damage(name, 32, f"its epoch {header.epoch} is below {before.epoch} of the one before")
        segments.append(Segment(name, header))
    return segments


def segments(directory):
    """All segments from the oldest to the newest. A fault counts if two looks in a row are the same."""
    last = None
    while True:
        listing = []
        for name in _names(directory):
            try:
                with _File(os.path.join(directory, name)) as file:
                    listing.append((name, file.read(0, BLOCK)))
            except FileNotFoundError:
                pass  # trimmed meanwhile: what is missing shows in the chain, and the next listing is another
        try:
            return _checked(listing)
        except (Damage, NewerVersion):
            if listing == last:
                raise
            last = listing


class Reader:
    """Reads a log once, from its oldest record to where it ends at that moment; `end` tells where that was."""

    def __init__(self, directory):
        self.directory = directory
        self.end = None
        self._due = None  # sequence of the next frame
        self._at = (None, BLOCK)  # header block of the segment that is being read, offset of the next frame in it

    def frames(self):
        """(segment, frame) for each valid frame in order."""
        while self.end is None:
            listing = segments(self.directory)
            if not listing:
                return
            oldest = listing[0].header.first
            if self._due is None:
                self._due = oldest
            if self._due < oldest:
                raise Trimmed(f"sequence {self._due} was trimmed, the log begins with {oldest}")
            begin = max(n for n, segment in enumerate(listing) if segment.header.first <= self._due)
            try:
                for segment, later in zip(listing[begin:], listing[begin + 1 :] + [None]):
                    yield from self._segment(segment, later)
            except (_Changed, FileNotFoundError):
                continue

    def records(self):
        """(segment, offset of the record, sequence, bytes of the record) for each record in order."""
        for segment, found in self.frames():
            for sequence, (offset, data) in enumerate(split(segment.name, found), found.first):
                yield segment, offset, sequence, data

    def _segment(self, segment, later):
        """The frames of a segment from the due one on. `later` is the next segment, None for the newest."""
        limit = later.header.first if later else None
        with _File(os.path.join(self.directory, segment.name)) as file:
            again = self._at[0] == segment.header.block
            offset = self._at[1] if again else BLOCK
            due = self._due if again else segment.header.first
            while limit is None or due < limit:
                found = frame(file.read, segment.header.salt, offset) or self._second_look(file, segment, limit, offset)
                if found is None:
                    self.end = End(segment.name, offset, torn_bytes(file, segment.header, offset))
                    return
                self._check_place(segment, found, due, limit)
                offset, due = offset + found.size, due + found.records
                if found.first >= self._due:  # else read before, in a file that had the same records
                    self._due, self._at = due, (segment.header.block, offset)
                    yield segment, found
            self._at = (None, BLOCK)

    def _check_place(self, segment, found, due, limit):
        if found.first != due:
            raise Damage(segment.name, found.offset, f"its frame begins with sequence {found.first}, due is {due}")
        if limit is not None and due + found.records > limit:
            raise Damage(segment.name, found.offset, f"its frame reaches beyond sequence {limit - 1}, the last here")
        for _ in split(segment.name, found):
            pass

    def _second_look(self, file, segment, limit, offset):
        """The frame where there was none a moment ago, or None if the log ends there."""
        if limit is None and segments(self.directory)[-1:] != [segment]:
            raise _Changed  # closed, or replaced by one with another salt
        suspect = limit is not None or next_header(file, segment.header.salt, offset) is not None
        found = frame(file.read, segment.header.salt, offset)
        if found is not None or not suspect:
            return found
        with _File(os.path.join(self.directory, segment.name)) as anew:
            if anew.read(0, BLOCK) != segment.header.block:
                raise _Changed
        reason = "no valid frame, though one begins further on"
        if limit is not None:
            reason = f"no valid frame, though the segment goes on to sequence {limit - 1}"
        raise Damage(segment.name, offset, reason)


def next_header(file, salt, end):
    """The offset of the first valid frame header behind `end`, or None."""
    wanted = mark(salt)
    start = end + 1
    while True:
        data = file.read(start, _SCAN)
        place = data.find(wanted)
        while place >= 0:
            if is_frame_header(salt, file.read(start + place, FRAME_HEADER)):
                return start + place
            place = data.find(wanted, place + 1)
        if len(data) < _SCAN:
            return None
        start += _SCAN - len(wanted) + 1


def torn_bytes(file, header, end):
    """How long the unfinished write at the end is, as section 5 counts it."""
    left = file.size() - end
    torn = 0
    head = file.read(end, FRAME_HEADER)
    if head[:8] == mark(header.salt):
        whole = is_frame_header(header.salt, head)
        torn = min(left, FRAME_HEADER + (int.from_bytes(head[8:12], "little") if whole else 0))
    if header.flags & 1:
        return torn
    for start in range(end, end + left, _SCAN):
        content = file.read(start, _SCAN).rstrip(b"\0")
        if content:
            torn = max(torn, start - end + len(content))
    return torn
