"""Prints a capture as upstream's FileReader sees it, for the tests to compare with.

usage: dump.py CAPTURE

Tab-separated lines; frames are leaf first, separated by \\x1e, each `function \\x1f file \\x1f line`:
    meta  name  value
    rec   tid  address  size  allocator  stack        in the order of the capture; no stack for frees
    leak  size  count  stack                          still allocated at the end
    hwm   size  count  stack                          alive at the high-water mark
"""
import sys

import memray

FREES = (1, 5)


def stack(record):
    return "\x1e".join("%s\x1f%s\x1f%d" % frame for frame in record.stack_trace())


def main(path):
    out = sys.stdout
    out.reconfigure(encoding="utf-8", errors="surrogateescape")
    reader = memray.FileReader(path, max_memory_records=1_000_000)
    meta = reader.metadata
    for name in ("pid", "command_line", "main_thread_id", "total_allocations", "peak_memory", "python_allocator",
                 "has_native_traces", "trace_python_allocators"):
        out.write("meta\t%s\t%s\n" % (name, getattr(meta, name)))
    out.write("meta\tsnapshots\t%d\n" % sum(1 for _ in reader.get_memory_snapshots()))
    stacks = {}
    for record in reader.get_allocation_records():
        if record.allocator in FREES:
            text = ""
        else:
            text = stacks.get(record.stack_id)
            if text is None:
                # munmap records carry no stack that the reader gives out.
                try:
                    text = stacks[record.stack_id] = stack(record)
                except NotImplementedError:
                    text = ""
        out.write("rec\t%d\t%d\t%d\t%d\t%s\n" % (record.tid, record.address, record.size, record.allocator, text))
    for name, records in (
        ("leak", reader.get_leaked_allocation_records(merge_threads=True)),
        ("hwm", reader.get_high_watermark_allocation_records(merge_threads=True)),
    ):
        for record in records:
            out.write("%s\t%d\t%d\t%s\n" % (name, record.size, record.n_allocations, stack(record)))


main(sys.argv[1])
