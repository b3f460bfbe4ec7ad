"""The golden logs of tests/data, whole and with the changes that the end of docs/log-format.md lists."""

import base64
import hashlib
import json
import struct
import subprocess
import sys
import unittest

import rig
import forge
import log
import record
from rig import flipped, golden_lines, golden_log, segment_name

LOGS = ("fresh", "reused", "repaired", "torn", "keyed")
DECODE = [sys.executable, str(rig.HERE / "decode")]


def segments_of(name):
    return {segment["file"]: segment for segment in golden_lines(f"log-v1/{name}.segments.jsonl")}


def as_golden(sequence, message):
    if message is None:
        return {"sequence": sequence, "lost": True}
    fields = message._asdict()
    for name in ("idempotency_key", "traceparent"):
        if not fields[name]:
            del fields[name]
    return {"sequence": sequence, "body_base64": base64.b64encode(fields.pop("body")).decode(), **fields}


class Golden(rig.LogCase):
    def test_records(self):
        for name in LOGS:
            self.put(golden_log(name))
            found = [as_golden(sequence, message) for sequence, message in self.read()[0]]
            self.assertEqual(found, golden_lines(f"log-v1/{name}.records.jsonl"), name)

    def test_segments_and_frames(self):
        for name in LOGS:
            folder = rig.GOLDEN / "log-v1" / name
            shown = subprocess.run([*DECODE, "--segments", folder], capture_output=True, check=True).stdout
            self.assertEqual([json.loads(line) for line in shown.splitlines()], list(segments_of(name).values()), name)

    def test_single_records(self):
        for version, expected in [(n, line) for n in (1, 2) for line in golden_lines(f"record-v{n}.jsonl")]:
            data = base64.b64decode(expected["record_base64"])
            self.assertEqual(data[0], version)
            message = record.decode(f"record-v{version}.jsonl", 0, data)
            self.assertEqual(message, record.Message(
                expected["subject"], expected["id"], expected["published_at_us"], expected["expiration_seconds"],
                base64.b64decode(expected["body_base64"]), expected.get("idempotency_key", ""),
                expected.get("traceparent", ""),
            ))
            self.assertEqual(record.broken_rules(message), [])

    def test_single_records_of_what_was_taken_over(self):
        for version, kind in ((3, "marks"), (4, "keys")):
            for expected in golden_lines(f"record-v{version}.jsonl"):
                found = record.decode("", 0, base64.b64decode(expected["record_base64"]))
                entries = [entry._asdict() for entry in found.entries]
                for entry in entries:
                    entry.update((name, value.hex()) for name, value in entry.items() if isinstance(value, bytes))
                self.assertEqual((found.kind, entries), (kind, expected[kind]))
                self.assertEqual(record.broken_rules(found), [])

    def test_a_lost_record(self):
        for expected in golden_lines("record-v0.jsonl"):
            self.assertIs(expected["lost"], True)
            self.assertIsNone(record.decode("record-v0.jsonl", 0, base64.b64decode(expected["record_base64"])))

    def test_the_torn_write_is_told(self):
        self.put(golden_log("torn"))
        self.assertEqual(self.read()[1], log.End(segment_name(29), 4684, 294))
        self.put(golden_log("fresh"))
        self.assertEqual(self.read()[1].torn, 0)

    def test_checkpoint_of_the_ids(self):
        content = (rig.GOLDEN / "ids-v1" / "high-water-marks").read_bytes()
        self.assertEqual(content[:12], b"WALCAIDS" + struct.pack("<I", 1))
        place, last_ids = 44, {}
        while content[place]:
            subject = content[place + 1 : place + 1 + content[place]].decode()
            place += 1 + content[place]
            (last_ids[subject],) = struct.unpack_from("<I", content, place)
            place += 4
        subjects, checksum = struct.unpack_from("<QI", content, place + 1)
        self.assertEqual(len(content), place + 13)
        self.assertEqual(subjects, len(last_ids))
        self.assertEqual(subjects, 3)
        self.assertEqual(checksum, forge.reference(content[:-4]))


    def test_checkpoint_of_the_keys(self):
        content = (rig.GOLDEN / "ids-v1" / "idempotency-keys").read_bytes()
        self.assertEqual(content[:12], b"WALCAKEY" + struct.pack("<I", 1))
        taken_at, keys = struct.unpack_from("<QQ", content, 28)
        records = [record.decode("", 0, base64.b64decode(line["record_base64"])) for line in golden_lines("record-v2.jsonl")]
        found = [struct.unpack_from("<16s16sQqI", content, 44 + 52 * number) for number in range(keys)]
        expected = []
        for sequence, message in enumerate(records, taken_at + 1 - len(records)):
            subject = message.subject.encode()
            name = hashlib.sha256(bytes([len(subject)]) + subject + message.idempotency_key.encode()).digest()[:16]
            body = hashlib.sha256(message.body).digest()[:16]
            if message.idempotency_key:
                expected.append((name, body, sequence, message.published_at_us, message.id))
        self.assertEqual(found, expected)
        self.assertEqual(content[44 + 52 * keys :], struct.pack("<I", forge.reference(content[:-4])))


class Changed(rig.LogCase):
    """The table "Cases to try a reader with", in its order."""

    def each_segment(self):
        for name in LOGS:
            files = golden_log(name)
            for file in segments_of(name):
                yield name, files, file

    def test_any_byte_of_a_header(self):
        for _, files, file in self.each_segment():
            for offset in range(4096):
                with self.assertRaises(log.Damage):
                    self.header_of(file, flipped(files[file], offset, offset % 8))

    def header_of(self, file, content):
        return log.segment_header(file, int(file[:20]), content[:4096])

    def test_a_flipped_header_stops_the_whole_log(self):
        for _, files, file in self.each_segment():
            for offset in (0, 8, 20, 55, 64, 80, 2000, 4095):
                self.damage({**files, file: flipped(files[file], offset, 3)}, file, 0)

    def test_a_newer_segment(self):
        for _, files, file in self.each_segment():
            block = files[file][:8] + struct.pack("<I", 2) + files[file][12:4096]
            refused = self.newer({**files, file: forge.seal(block) + files[file][4096:]})
            self.assertEqual((refused.file, refused.what, refused.found, refused.known), (file, "segment", 2, 1))

    def test_any_bit_of_a_frame(self):
        for name, files, file in self.each_segment():
            newest, segment = file == max(segments_of(name)), segments_of(name)[file]
            for frame in segment["frames"]:
                last = newest and frame is segment["frames"][-1]
                for offset in range(frame["offset"], frame["offset"] + frame["bytes"], 7):
                    changed = {**files, file: flipped(files[file], offset, offset % 8)}
                    if not last or name == "torn":
                        self.damage(changed, file, frame["offset"])
                    else:
                        self.assertEqual(self.sequences(changed)[-1], frame["first"] - 1)

    def test_a_cut_segment(self):
        for name, files, file in self.each_segment():
            segment, newest = segments_of(name)[file], file == max(segments_of(name))
            self.damage({**files, file: files[file][:4095]}, file, 0)
            self.damage({**files, file: b""}, file, 0)
            for cut in range(4096, segment["end"], 5):
                changed = {**files, file: files[file][:cut]}
                whole = [frame for frame in segment["frames"] if frame["offset"] + frame["bytes"] <= cut]
                if newest:
                    last = whole[-1]["first"] + whole[-1]["records"] - 1 if whole else segment["first"] - 1
                    self.assertEqual((self.sequences(changed) or [segment["first"] - 1])[-1], last)
                else:
                    self.damage(changed, file, sum(frame["bytes"] for frame in whole) + 4096)

    def test_missing_segments(self):
        files = golden_log("fresh")
        self.assertEqual(self.sequences({n: c for n, c in files.items() if n != segment_name(1)}), list(range(9, 15)))
        self.damage({n: c for n, c in files.items() if n != segment_name(9)}, segment_name(13), 64)
        self.assertEqual(self.sequences({n: c for n, c in files.items() if n != segment_name(13)}), list(range(1, 13)))

    def test_a_copy_and_a_foreign_one(self):
        fresh, reused = golden_log("fresh"), golden_log("reused")
        self.damage({**fresh, segment_name(40): fresh[segment_name(13)]}, segment_name(40), 56)
        self.damage({**reused, segment_name(13): fresh[segment_name(13)]}, segment_name(23), 16)

    def test_a_newer_record(self):
        for _, files, file in self.each_segment():
            content = bytearray(files[file])
            content[4096 + 36] = 5
            refused = self.newer({**files, file: forge.reseal_frame(bytes(content), 4096)})
            self.assertEqual((refused.file, refused.offset), (file, 4096 + 36))
            self.assertEqual((refused.what, refused.found, refused.known), ("record", 5, 4))

    def test_zeros_behind(self):
        for name in LOGS:
            files = golden_log(name)
            expected = self.sequences(files)
            files[max(segments_of(name))] += bytes(9000)
            self.assertEqual(self.sequences(files), expected)


class Command(rig.LogCase):
    def test_exit_codes(self):
        files = golden_log("fresh")
        for change, code, text in [
            ({}, 0, ""),
            ({segment_name(9): flipped(files[segment_name(9)], 4200, 0)}, 3, f"{segment_name(9)}: offset 4096: "),
            ({segment_name(13): forge.header(version=2, first=13)}, 4, "has version 2, this decoder knows up to 1"),
        ]:
            self.put({**files, **change})
            ended = subprocess.run([*DECODE, self.folder], capture_output=True, text=True)
            self.assertEqual(ended.returncode, code, ended.stderr)
            self.assertIn(text, ended.stderr)
        ended = subprocess.run([*DECODE, self.folder / "none"], capture_output=True, text=True)
        self.assertEqual(ended.returncode, 1)


if __name__ == "__main__":
    unittest.main()
