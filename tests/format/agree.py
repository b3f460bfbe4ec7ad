"""Holds two outputs of records against each other, line by line, and checks what must hold across records."""

import itertools
import json


class Disagree(Exception):
    """The first record on which two readers differ, or that follows wrongly on the ones before."""


def compare(ours, theirs, whole=False):
    """The number of records of two iterables of lines (bytes), if they agree in all fields of all of them.

    Their sequences must follow one by one. With `whole`, the log begins with sequence 1, and the ids of each
    subject must rise by 1 from 1.
    """
    count, due, ids = 0, 1 if whole else None, {}
    for mine, other in itertools.zip_longest(ours, theirs):
        if mine is None or other is None:
            which = "decoder" if mine is None else "walcast"
            raise Disagree(f"after {count} records {which} has no further one, the other has {(mine or other)[:200]}")
        record = json.loads(mine)
        # The same text is the same record; another text may be, in another order of fields.
        if mine != other and record != json.loads(other):
            raise Disagree(f"record {count + 1}: decoder {mine[:300]}, walcast {other[:300]}")
        if due is not None and record["sequence"] != due:
            raise Disagree(f"sequence {record['sequence']} where {due} is due")
        due = record["sequence"] + 1
        if whole:
            last = ids.get(record["subject"], 0)
            if record["id"] != last + 1:
                raise Disagree(f"sequence {record['sequence']}: id {record['id']} on its subject after {last}")
            ids[record["subject"]] = last + 1
        count += 1
    return count


def is_beginning(lines, of_lines):
    """The number of lines of the first, if the second begins with exactly them."""
    count = 0
    for line in lines:
        count += 1
        if next(of_lines, None) != line:
            raise Disagree(f"record {count}, read beside the running broker, is another one later")
    return count
