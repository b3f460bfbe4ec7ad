"""What the tests of the decoder share: golden logs in a folder of their own, and what is read from it."""

import json
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "data"

import log  # noqa: E402
import record  # noqa: E402
from layout import Damage, NewerVersion  # noqa: E402


def golden_lines(name):
    return [json.loads(text) for text in (GOLDEN / name).read_text().splitlines()]


def golden_log(name):
    """Name and bytes of each file of a golden log."""
    return {path.name: path.read_bytes() for path in sorted((GOLDEN / "log-v1" / name).iterdir())}


def segment_name(first):
    return f"{first:020}.wal"


class LogCase(unittest.TestCase):
    """A test with a folder for one log."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="walcast-format.")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def put(self, files):
        """Makes the folder hold these files and no others."""
        for path in self.folder.iterdir():
            if path.name not in files:
                path.unlink()
        for name, content in files.items():
            path = self.folder / name
            # In place, as a broker does: a reader may have the file open. Not over a length of 0, which makes some
            # file systems write to the disk at once.
            with open(path, "r+b" if path.exists() else "wb") as file:
                file.write(content)
                file.truncate()

    def read(self):
        """(sequences and messages, the end) of what the folder holds."""
        reader = log.Reader(self.folder)
        found = [
            (sequence, record.decode(segment.name, offset, data))
            for segment, offset, sequence, data in reader.records()
        ]
        return found, reader.end

    def sequences(self, files):
        self.put(files)
        return [sequence for sequence, _ in self.read()[0]]

    def damage(self, files, name=None, offset=None):
        """The damage that reading these files must find, if given in that file, at that offset."""
        self.put(files)
        with self.assertRaises(Damage) as caught:
            self.read()
        if name is not None:
            self.assertEqual(caught.exception.file, name)
        if offset is not None:
            self.assertEqual(caught.exception.offset, offset)
        return caught.exception

    def newer(self, files):
        self.put(files)
        with self.assertRaises(NewerVersion) as caught:
            self.read()
        return caught.exception


def flipped(content, offset, bit):
    changed = bytearray(content)
    changed[offset] ^= 1 << bit
    return bytes(changed)
