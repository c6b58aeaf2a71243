"""Prints what upstream's FileReader makes of a capture in each mode, threads told apart.

usage: modes.py CAPTURE [THRESHOLD...]

Tab-separated lines; frames are leaf first, separated by \\x1e, each `function \\x1f file \\x1f line`:
    MODE  tid  size  count  stack        MODE is hwm, leak or, for temporary allocations, the threshold
"""
import sys

import memray


def main(path, thresholds):
    out = sys.stdout
    out.reconfigure(encoding="utf-8", errors="surrogateescape")
    reader = memray.FileReader(path, max_memory_records=1_000_000)
    modes = [
        ("leak", reader.get_leaked_allocation_records(merge_threads=False)),
        ("hwm", reader.get_high_watermark_allocation_records(merge_threads=False)),
    ]
    for threshold in thresholds:
        records = reader.get_temporary_allocation_records(threshold=int(threshold), merge_threads=False)
        modes.append((threshold, records))
    for name, records in modes:
        for record in records:
            stack = "\x1e".join("%s\x1f%s\x1f%d" % frame for frame in record.stack_trace())
            out.write("%s\t%d\t%d\t%d\t%s\n" % (name, record.tid, record.size, record.n_allocations, stack))


main(sys.argv[1], sys.argv[2:])
