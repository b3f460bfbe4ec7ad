"""Rules of docs/log-format.md that no golden log shows, on logs made here; and reading while files change."""

import os
import unittest

import rig
import forge
import log
import record
from rig import golden_log, segment_name

ONE = segment_name(1)


def one_segment(*frames):
    return {ONE: forge.header() + b"".join(frames)}


class Frames(rig.LogCase):
    def test_no_log_and_an_empty_segment(self):
        self.assertEqual(self.sequences({}), [])
        self.assertEqual(self.sequences(one_segment()), [])

    def test_wrong_numbers_are_damage_in_the_newest_segment_too(self):
        m = forge.message()
        good = forge.frame(1, [m])
        at = 4096 + len(good)
        for bad in (
            forge.frame(3, [m]), forge.frame(1, [m]), forge.frame(2, []), forge.frame(2, [m], count=2),
            forge.frame(2, [m, m], count=1), forge.raw_frame(2, 1, b"\x05\0\0\0abcd"), forge.raw_frame(2, 1, b"\0\0\0"),
            forge.raw_frame(2, 0, b""),
        ):
            self.damage(one_segment(good, bad), ONE, at)

    def test_another_salt_is_no_frame(self):
        m = forge.message()
        for salt in (b"other salt here.", b"salt and no more"):
            self.assertEqual(self.sequences(one_segment(forge.frame(1, [m]), forge.frame(2, [m], salt=salt))), [1])

    def test_a_frame_in_a_body_is_none(self):
        body = forge.frame(2, [forge.message()], salt=b"salt?" + bytes(11))
        self.assertEqual(self.sequences(one_segment(forge.frame(1, [forge.message(body=body)]))), [1])

    def test_a_frame_beyond_the_next_segment(self):
        m = forge.message()
        files = one_segment(forge.frame(1, [m, m, m]))
        files[segment_name(3)] = forge.header(first=3, previous_first=1, salt=b"another salt ...")
        self.damage(files, ONE, 4096)

    def test_a_later_header_far_behind_is_found(self):
        m = forge.message()
        for gap in (1, 31, 4096, (1 << 20) - 8, (1 << 20) - 1, 1 << 20, 3 << 20):
            files = one_segment(forge.frame(1, [m]), bytes(gap), forge.frame(2, [m])[:32])
            self.damage(files, ONE, 4096 + 36 + len(m))

    def test_the_length_of_a_torn_write(self):
        whole, torn = forge.frame(1, [forge.message()]), forge.frame(2, [forge.message()])
        for flags, rest, expected in (
            (0, torn[:40] + bytes(10) + b"z" + bytes(100), len(torn)),
            (0, torn[:40] + bytes(60) + b"z" + bytes(9), 101),
            (0, torn[:20], 20), (0, torn[:20] + bytes(50), 32), (1, torn[:-1] + b"\1zz", len(torn)), (1, torn[:40], 40),
            (1, b"old bytes" + bytes(100), 0), (0, b"no frame" + bytes(100), 8), (0, bytes(100), 0), (0, b"", 0),
        ):
            self.put({ONE: forge.header(flags=flags) + whole + rest})
            self.assertEqual(self.read()[1], log.End(ONE, 4096 + len(whole), expected), (flags, rest))

    def test_names_and_chain(self):
        for name in ("1.wal", "x.wal", "0" * 20 + ".wal", "9" * 20 + ".wal", ".wal", "0" * 21 + "1.wal"):
            self.damage({name: forge.header()}, name)
        files = one_segment(forge.frame(1, [forge.message()]))
        for ignored in ("7.used", "0" * 20 + ".spare", f"{ONE}.repair", "LOCK", "x.WAL"):
            self.assertEqual(self.sequences({**files, ignored: b"?"}), [1])
        later = dict(first=2, previous_first=1, epoch=1)
        self.put({**files, segment_name(2): forge.header(**later)})
        (self.folder / segment_name(3)).mkdir()
        os.symlink(self.folder / ONE, self.folder / segment_name(4))
        self.assertEqual([sequence for sequence, _ in self.read()[0]], [1])
        os.rmdir(self.folder / segment_name(3))
        for wrong, offset in (({"epoch": 0}, 32), ({"previous_first": 0}, 64), ({"log_id": bytes(16)}, 16)):
            self.damage({**files, segment_name(2): forge.header(**{**later, **wrong})}, segment_name(2), offset)


class Records(rig.LogCase):
    def test_lost_and_broken(self):
        self.put(one_segment(forge.frame(1, [b"\0", forge.message()])))
        self.assertEqual(self.read()[0][0], (1, None))
        self.assertEqual(record.line(1, None), '{"sequence":1,"lost":true}')
        m = forge.message(subject=b"subject", body=b"body")
        for bad in (
            b"", b"\0\0", m[:-1], m + b"x", m[:9], b"\1", forge.message(number=0), forge.message(number=2**31),
            forge.message(expiration=2**31), forge.message(subject=b"\xff"), forge.message(subject=b"\xed\xa0\x80"),
            b"\1" + b"\xff" * 40, forge.message_v2(), forge.message_v2(key=b"\xff"), forge.message_v2(traceparent=b"\xff"),
            forge.message_v2(key=b"k") + b"x", forge.message_v2(key=b"k")[:-1], forge.message_v2(key=b"k", number=0),
            forge.message_v2(key=b"k", expiration=2**31), b"\2" + m[1:], b"\1" + forge.message_v2(key=b"k")[1:],
        ):
            self.damage(one_segment(forge.frame(1, [bad])), ONE, 4096 + 36)

    def test_what_was_taken_over(self):
        key = (b"n" * 16, bytes(range(240, 256)), -1, 7)
        marks, keys = forge.marks((b"a", 1), ("größe".encode(), 2**31 - 1)), forge.keys(key, key)
        self.put(one_segment(forge.frame(1, [marks, keys])))
        found = [message for _, message in self.read()[0]]
        self.assertEqual(found[0], record.TakenOver("marks", [record.Mark("a", 1), record.Mark("größe", 2**31 - 1)]))
        self.assertEqual(found[1], record.TakenOver("keys", [record.Key(*key)] * 2))
        self.assertEqual(
            record.line(1, found[0]), '{"sequence":1,"marks":[{"subject":"a","id":1},{"subject":"größe","id":2147483647}]}'
        )
        shown = (
            f'{{"name_hash":"{"6e" * 16}","body_hash":"f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",'
            '"published_at":"1969-12-31T23:59:59.999999Z","id":7}'
        )
        self.assertEqual(record.line(2, found[1]), f'{{"sequence":2,"keys":[{shown},{shown}]}}')
        self.assertEqual([record.broken_rules(message) for message in found], [[], []])

    def test_broken_lists(self):
        key = (bytes(16), bytes(16), 0, 1)
        marks, keys = forge.marks((b"a", 1), (b"b", 2)), forge.keys(key, key)
        bad = [whole[:cut] for whole in (marks, keys) for cut in range(1, len(whole))]
        bad += [whole + more for whole in (marks, keys) for more in (b"x", whole[9:])]
        for count in (0, 1, 3, 2**32, 2**64 - 1):
            bad += [whole[:1] + count.to_bytes(8, "little") + whole[9:] for whole in (marks, keys)]
        bad += [forge.marks(), forge.keys()]
        bad += [forge.marks((b"a", number)) for number in (0, 2**31)]
        bad += [forge.keys((*key[:3], number)) for number in (0, 2**31)]
        bad += [forge.marks((subject, 1)) for subject in (b"", b"x" * 256, b"a\nb", b"\xff", b"\xed\xa0\x80", b"\xc2\x85")]
        bad += [forge.keys(*[key] * 23_832), forge.marks(*[(b"x" * 255, 1)] * 3_928)]
        for data in bad:
            with self.assertRaises(log.Damage):
                record.decode(ONE, 0, data)
        for most in (forge.keys(*[key] * 23_831), forge.marks(*[(b"x" * 255, 1)] * 3_927)):
            self.assertGreater(len(record.decode(ONE, 0, most).entries), 3_000)

    def test_rules_of_writers(self):
        for subject in ("", "x" * 256, "a\nb", "\x7f", "\u0085"):
            self.assertNotEqual(record.broken_rules(record.Message(subject, 1, 0, 0, b"")), [], repr(subject))
        for subject in ("x" * 255, "a b", "\u200b", "\u2028", "\ue000"):
            self.assertEqual(record.broken_rules(record.Message(subject, 1, 0, 0, b"")), [], repr(subject))

    def test_rules_of_keys_and_traceparents(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        later = "cc" + trace[2:]

        def faults(key="", traceparent=""):
            return record.broken_rules(record.Message("s", 1, 0, 0, b"", key, traceparent))

        for traceparent in (trace, later, later + "-", later + "-more", later + "-" + "x" * 72):
            self.assertEqual(faults("k" * 255, traceparent), [], traceparent)
        for key in ("k" * 256, "a\nb", "\x7f"):
            self.assertNotEqual(faults(key), [], repr(key))
        for traceparent in (
            "x", trace.upper(), trace + "-", "ff" + trace[2:], later + "x", later + "-" + "x" * 73,
            f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", later + "-a b",
        ):
            self.assertNotEqual(faults("", traceparent), [], traceparent)

    def test_times(self):
        for micros, expected in [
            (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59.999999Z"), (100_000, "1970-01-01T00:00:00.1Z"),
            (1_700_000_000_123_457, "2023-11-14T22:13:20.123457Z"), (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (-62_135_596_800_000_000, "0001-01-01T00:00:00Z"), (-62_135_596_800_000_001, "0000-12-31T23:59:59.999999Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
            (253_402_207_200_000_000, "9999-12-30T22:00:00Z"),
            (253_402_207_200_000_001, None), (-377_705_023_201_000_000, "-009999-01-02T01:59:59Z"),
            (-377_705_023_201_000_001, None), (2**63 - 1, None), (-(2**63), None),
        ]:
            self.assertEqual(record.rfc3339(micros), expected)
            shown = f'"{expected}"' if expected else "null"
            self.assertIn(f'"published_at":{shown},', record.line(1, record.Message("s", 1, micros, 0, b"")))


class WhileFilesChange(rig.LogCase):
    """What section 6 allows a broker to do between two reads."""

    def test_the_broker_appends_and_starts_a_segment(self):
        m = forge.message()
        self.put(one_segment(forge.frame(1, [m])))
        found = log.Reader(self.folder).records()
        self.assertEqual(next(found)[2], 1)
        self.put({
            ONE: forge.header() + forge.frame(1, [m]) + forge.frame(2, [m]) + bytes(100),
            segment_name(3): forge.header(first=3, previous_first=1) + forge.frame(3, [m]),
        })
        self.assertEqual([sequence for _, _, sequence, _ in found], [2, 3])

    def test_a_trimmed_log_is_said_to_be_trimmed(self):
        files = golden_log("fresh")
        self.put(files)
        found = log.Reader(self.folder).records()
        next(found)
        self.put({segment_name(13): files[segment_name(13)]})
        with self.assertRaises(log.Trimmed):
            list(found)

    def test_an_empty_newest_segment_is_replaced(self):
        m = forge.message()
        files = one_segment(forge.frame(1, [m]))
        self.put({**files, segment_name(2): forge.header(first=2, previous_first=1)})
        found = log.Reader(self.folder).records()
        self.assertEqual(next(found)[2], 1)
        salt = b"salt after that."
        anew = forge.header(first=2, previous_first=1, epoch=2, salt=salt) + forge.frame(2, [m], salt=salt)
        self.put({**files, segment_name(2): anew})
        self.assertEqual([sequence for _, _, sequence, _ in found], [2])

    def test_a_closed_segment_is_repaired(self):
        m = forge.message()
        later = {segment_name(3): forge.header(first=3, previous_first=1)}
        self.put({**one_segment(forge.frame(1, [m]), forge.frame(2, [m])), **later})
        found = log.Reader(self.folder).records()
        self.assertEqual(next(found)[2], 1)
        salt = b"salt of repairs."
        anew = [forge.frame(1, [m], salt=salt), forge.frame(2, [m], salt=salt)]
        self.put({ONE: forge.header(salt=salt) + b"".join(anew), **later})
        self.assertEqual([sequence for _, _, sequence, _ in found], [2])

    def test_a_listing_that_leaves_one_out(self):
        self.put(golden_log("fresh"))
        names, looks = log._names, []

        def without_the_second(directory):
            looks.append(directory)
            found = names(directory)
            return found if len(looks) > 1 else found[:1] + found[2:]

        log._names = without_the_second
        try:
            self.assertEqual(len(self.read()[0]), 14)
        finally:
            log._names = names

    def test_a_frame_that_is_whole_at_the_second_look(self):
        m = forge.message()
        whole = forge.header() + b"".join(forge.frame(first, [m]) for first in (1, 2, 3))
        second = len(forge.header() + forge.frame(1, [m]))
        self.put({ONE: whole[:second] + bytes(5) + whole[second + 5 :]})
        reader = log.Reader(self.folder)
        find = log.next_header

        def and_then_it_is_written(*arguments):
            (self.folder / ONE).write_bytes(whole)
            return find(*arguments)

        log.next_header = and_then_it_is_written
        try:
            self.assertEqual([sequence for _, _, sequence, _ in reader.records()], [1, 2, 3])
        finally:
            log.next_header = find


if __name__ == "__main__":
    unittest.main()
