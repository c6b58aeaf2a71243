"""Prints what upstream's FileReader makes of a capture in each mode, threads told apart.

usage: modes.py CAPTURE [THRESHOLD...]

Tab-separated lines; frames are leaf first, separated by \\x1e, each `function \\x1f file \\x1f line`:
    MODE  tid  size  count  stack        MODE is hwm, leak or, for temporary allocations, the threshold
For each threshold the same once more as `by-hand THRESHOLD`, from the single records: upstream's own takes a block that
another thread has freed for the one that is freed when its address comes back.
"""
import sys

import memray


FREES = (1, 5)
MMAP, MUNMAP = 14, 15


def temporary_by_hand(reader, threshold):
    counts = {}
    blocks, maps = {}, {}
    for record in reader.get_allocation_records():
        if record.allocator in FREES or record.allocator == MUNMAP:
            lived = (maps if record.allocator == MUNMAP else blocks).pop(record.address, None)
            is_whole = lived and (record.allocator != MUNMAP or lived[1].size == record.size)
            if is_whole and lived[1].tid == record.tid and counts[record.tid] - lived[0] <= threshold:
                yield lived[1]
        else:
            counts[record.tid] = counts.get(record.tid, 0) + 1
            (maps if record.allocator == MMAP else blocks)[record.address] = (counts[record.tid], record)


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
        modes.append(("by-hand " + threshold, temporary_by_hand(reader, int(threshold))))
    for name, records in modes:
        for record in records:
            stack = "\x1e".join("%s\x1f%s\x1f%d" % frame for frame in record.stack_trace())
            out.write("%s\t%d\t%d\t%d\t%s\n" % (name, record.tid, record.size, record.n_allocations, stack))


main(sys.argv[1], sys.argv[2:])
