"""Prints what upstream's FileReader makes of a capture by place, threads told apart: what aggregated ones can tell.

usage: places.py CAPTURE

Tab-separated lines; frames are leaf first, separated by \\x1e, each `function \\x1f file \\x1f line`:
    meta  name  value
    leak  tid  thread name  allocator  size  count  stack
    hwm   tid  thread name  allocator  size  count  stack
    snapshot  time  rss  heap
"""
import sys

import memray


def main(path):
    out = sys.stdout
    out.reconfigure(encoding="utf-8", errors="surrogateescape")
    reader = memray.FileReader(path, max_memory_records=1_000_000)
    for name in ("pid", "command_line", "main_thread_id", "total_allocations", "peak_memory", "file_format"):
        out.write("meta\t%s\t%s\n" % (name, getattr(reader.metadata, name)))
    for kind, records in (
        ("leak", reader.get_leaked_allocation_records(merge_threads=False)),
        ("hwm", reader.get_high_watermark_allocation_records(merge_threads=False)),
    ):
        for record in records:
            stack = "\x1e".join("%s\x1f%s\x1f%d" % frame for frame in record.stack_trace())
            fields = (kind, record.tid, record.thread_name, record.allocator, record.size, record.n_allocations, stack)
            out.write("\t".join(map(str, fields)) + "\n")
    for snapshot in reader.get_memory_snapshots():
        out.write("snapshot\t%d\t%d\t%d\n" % (snapshot.time, snapshot.rss, snapshot.heap))


main(sys.argv[1])
