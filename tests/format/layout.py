"""Segment and frame headers of docs/log-format.md, sections 3 and 4: bytes in, values or a `Damage` out.

Knows no files but their names for messages; what a wrong frame means where it stands is `log`'s to say.
"""

import struct
from typing import NamedTuple

import crc32c

BLOCK = 4096  # bytes of a segment header
FRAME_HEADER = 32  # bytes
SEGMENT_MAGIC = b"\x89WALSEG\n"
FRAME_MAGIC = b"\xd7WF\n"
SEGMENT_VERSION = 1  # the newest this decoder knows

_SEGMENT = struct.Struct("<8sII16sQ16sQQqI")
_FRAME = struct.Struct("<4s4sIIQII")
_U32 = struct.Struct("<I")


class Damage(Exception):
    """Bytes that no crash can leave behind, with the file and the offset (bytes) of what is wrong."""

    def __init__(self, file, offset, reason):
        super().__init__(f"{file}: offset {offset}: {reason}")
        self.file, self.offset, self.reason = file, offset, reason


class NewerVersion(Exception):
    """A segment or a record of a version that this decoder does not know."""

    def __init__(self, file, offset, what, found, known):
        super().__init__(f"{file}: offset {offset}: the {what} has version {found}, this decoder knows up to {known}")
        self.file, self.offset, self.what, self.found, self.known = file, offset, what, found, known


class Header(NamedTuple):
    """A segment header; `block` is the whole of it, to tell it from a later one of the same file."""

    version: int
    node_id: int
    log_id: str
    epoch: int
    salt: bytes
    first: int
    previous_first: int
    created_at_us: int
    flags: int
    block: bytes


class Frame(NamedTuple):
    """A valid frame; `offset` is that of its header in the file, `size` its bytes with the header."""

    offset: int
    size: int
    records: int
    first: int
    payload: bytes


def segment_header(file, name_first, block):
    """The header in the first 4096 bytes of a file whose name says `name_first`, checked in the document's order."""
    if len(block) < BLOCK:
        raise Damage(file, 0, f"the file has {len(block)} bytes, a header has {BLOCK}")
    if block[:8] != SEGMENT_MAGIC:
        raise Damage(file, 0, "it does not begin as a segment does")
    if crc32c.append(block[: BLOCK - 4]) != _U32.unpack_from(block, BLOCK - 4)[0]:
        raise Damage(file, 0, "the checksum of the segment header is wrong")
    _, version, node, log_id, epoch, salt, first, previous, created, flags = _SEGMENT.unpack_from(block)
    if version > SEGMENT_VERSION:
        raise NewerVersion(file, 8, "segment", version, SEGMENT_VERSION)
    if version == 0:
        raise Damage(file, 8, "version 0 was never one")
    if first != name_first:
        raise Damage(file, 56, f"the header says that it begins with sequence {first}, its name {name_first}")
    return Header(version, node, log_id.hex(), epoch, salt, first, previous, created, flags, block)


def mark(salt):
    """The first 8 bytes of every frame of the segment with this salt."""
    return FRAME_MAGIC + salt[:4]


def is_frame_header(salt, head):
    """Whether 32 bytes, or fewer at the end of the file, are a valid frame header."""
    if len(head) < FRAME_HEADER or head[:8] != mark(salt):
        return False
    return crc32c.append(salt + head[:28]) == _U32.unpack_from(head, 28)[0]


def frame(read, salt, offset):
    """The valid frame at `offset`, or None; `read(offset, bytes)` gives what the file has there."""
    head = read(offset, FRAME_HEADER)
    if not is_frame_header(salt, head):
        return None
    _, _, size, records, first, checksum, _ = _FRAME.unpack(head)
    payload = read(offset + FRAME_HEADER, size)
    if len(payload) < size or crc32c.append(payload, crc32c.append(salt)) != checksum:
        return None
    return Frame(offset, FRAME_HEADER + size, records, first, payload)


def split(file, found):
    """The records of a valid frame, as (offset in the file, bytes)."""
    if found.records < 1:
        raise Damage(file, found.offset, "a frame without records")
    place, end = 0, len(found.payload)
    base = found.offset + FRAME_HEADER
    for _ in range(found.records):
        start = place + 4
        if start > end:
            raise Damage(file, found.offset, f"its payload ends before its {found.records} records")
        place = start + _U32.unpack_from(found.payload, place)[0]
        if place > end:
            raise Damage(file, found.offset, f"a record of it reaches beyond the payload")
        yield base + start, found.payload[start:place]
    if place != end:
        raise Damage(file, found.offset, f"{end - place} bytes of its payload belong to no record")
