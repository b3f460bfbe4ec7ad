"""The two checksums against the document's examples and against each other."""

import random
import unittest

import rig
import crc32c


class Checksum(rig.LogCase):
    def test_examples_of_the_document(self):
        for data, expected in [
            (b"", 0x00000000), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
        ]:
            self.assertEqual(crc32c.reference(data), expected)
            self.assertEqual(crc32c.append(data), expected)

    def test_the_quick_one_is_the_reference(self):
        chance = random.Random(4)
        lengths = [*range(400), 4092, 65_535, 131_071, 131_072, 131_073, 131_200, 300_001]
        for length in lengths:
            data, before = chance.randbytes(length), chance.getrandbits(32)
            self.assertEqual(crc32c.append(data, before), crc32c.reference(data, before), length)
        for data in (bytes(5000), b"\xff" * 5000, b"\x80" + bytes(4999), bytes(4999) + b"\x01"):
            self.assertEqual(crc32c.append(data), crc32c.reference(data))

    def test_a_checksum_goes_on_where_another_ended(self):
        data = random.Random(5).randbytes(10_000)
        for cut in (0, 1, 97, 5000, 10_000):
            self.assertEqual(crc32c.append(data[cut:], crc32c.append(data[:cut])), crc32c.reference(data))

    def test_control_a_flipped_bit_gives_another_one(self):
        data = random.Random(6).randbytes(1000)
        for place in range(1000):
            self.assertNotEqual(crc32c.append(rig.flipped(data, place, place % 8)), crc32c.append(data))


if __name__ == "__main__":
    unittest.main()
