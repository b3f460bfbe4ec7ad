"""Golden logs with random damage, read by the decoder and by `walcast log show`: both must say the same."""

import pathlib
import random
import subprocess

import log
import record
from agree import Disagree
from layout import BLOCK, Damage, NewerVersion

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "log-v1"


def _changed(chance, content):
    """The bytes of a segment with some bits flipped, and at times cut or with zeros behind."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        low, high = (BLOCK, len(content)) if chance.random() < 0.85 else (0, BLOCK)
        content[chance.randrange(low, high)] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        content = content[: chance.randrange(BLOCK - 50, len(content))]
    return bytes(content) + bytes(chance.choice([0] * 9 + [3000]))


def _ours(folder):
    """What the decoder says: (lines, None) of a sound log, (None, (file, offset)) of a damaged one."""
    try:
        return b"".join(
            record.line(sequence, record.decode(segment.name, offset, data)).encode() + b"\n"
            for segment, offset, sequence, data in log.Reader(folder).records()
        ), None
    except (Damage, NewerVersion) as fault:
        # Of a header walcast names the whole block.
        return None, (fault.file, fault.offset if fault.offset >= BLOCK else 0)


def check(binary, folder, tries, seed):
    """Reads so many damaged logs in `folder`; (sound ones, damaged ones). Raises `Disagree` with the seed."""
    chance = random.Random(seed)
    inside = pathlib.Path(folder) / "log"
    inside.mkdir(parents=True)
    found = [0, 0]
    for number in range(tries):
        name = chance.choice(sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
        files = {path.name: path.read_bytes() for path in (GOLDEN / name).iterdir()}
        victim = chance.choice(sorted(file for file in files if file.endswith(".wal")))
        files[victim] = _changed(chance, files[victim])
        for path in inside.iterdir():
            path.unlink()
        for file, content in files.items():
            (inside / file).write_bytes(content)
        lines, place = _ours(inside)
        show = subprocess.run([binary, "log", "show", "--data-dir", folder], capture_output=True)
        said = show.stderr.decode()
        if place is None:
            same = show.returncode == 0 and show.stdout == lines
        else:
            same = show.returncode == 3 and f"/{place[0]} is damaged at byte {place[1]}:" in said
        if not same:
            raise Disagree(f"seed {seed}, number {number}, {name}/{victim}: decoder {place or 'sound'}, walcast {said}")
        found[place is not None] += 1
    return found
