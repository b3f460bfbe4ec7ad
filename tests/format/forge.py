"""Writes logs for the tests of the decoder: whole ones, and golden ones with something changed.

Checksums here are those of `crc32c.reference`, so that the quick one of the decoder is not its own witness.
"""

import struct

from crc32c import reference
from layout import BLOCK, FRAME_HEADER


def header(**fields):
    """A segment header block with right checksum; what is not given is that of the first segment of a log."""
    values = dict(
        magic=b"\x89WALSEG\n", version=1, node_id=0, log_id=bytes(range(16)), epoch=1, salt=b"salt of segment.",
        first=1, previous_first=0, created_at_us=0, flags=0,
    )
    values.update(fields)
    return seal(struct.pack("<8sII16sQ16sQQqI", *values.values()).ljust(BLOCK, b"\0"))


def seal(block):
    """The block with the checksum that its first 4092 bytes have."""
    return block[: BLOCK - 4] + struct.pack("<I", reference(block[: BLOCK - 4]))


def frame(first, records, salt=b"salt of segment.", count=None):
    """A frame of so many records (bytes); `count` is what it claims if not their number."""
    payload = b"".join(struct.pack("<I", len(data)) + data for data in records)
    return raw_frame(first, len(records) if count is None else count, payload, salt)


def raw_frame(first, count, payload, salt=b"salt of segment."):
    head = struct.pack(
        "<4s4sIIQI", b"\xd7WF\n", salt[:4], len(payload), count, first, reference(payload, reference(salt))
    )
    return head + struct.pack("<I", reference(salt + head)) + payload


def message(subject=b"s", number=1, published=0, expiration=0, body=b"", version=1):
    """The bytes of a record of version 1."""
    return (
        struct.pack("<BQ", version, len(subject)) + subject
        + struct.pack("<IqIQ", number, published, expiration, len(body)) + body
    )


def message_v2(key=b"", traceparent=b"", subject=b"s", number=1, published=0, expiration=0, body=b""):
    """The bytes of a record of version 2."""
    return (
        struct.pack("<BQ", 2, len(subject)) + subject + struct.pack("<IqI", number, published, expiration)
        + b"".join(struct.pack("<Q", len(part)) + part for part in (key, traceparent, body))
    )


def marks(*marks):
    """The bytes of a record of version 3 with these subjects (bytes) and ids."""
    return struct.pack("<BQ", 3, len(marks)) + b"".join(
        struct.pack("<Q", len(subject)) + subject + struct.pack("<I", number) for subject, number in marks
    )


def keys(*keys):
    """The bytes of a record of version 4 with these hashes of names and bodies, times and ids."""
    return struct.pack("<BQ", 4, len(keys)) + b"".join(struct.pack("<16s16sqI", *key) for key in keys)


def reseal_frame(content, offset):
    """A segment's bytes with right checksums for the frame at `offset`, after its payload was changed."""
    salt = content[40:56]
    size, count, first = struct.unpack_from("<IIQ", content, offset + 8)
    payload = content[offset + FRAME_HEADER : offset + FRAME_HEADER + size]
    whole = raw_frame(first, count, payload, salt)
    return content[:offset] + whole + content[offset + len(whole) :]
