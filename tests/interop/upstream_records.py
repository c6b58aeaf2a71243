"""Print what upstream memray's FileReader makes of a capture, one JSON object a line.

Usage: python upstream_records.py CAPTURE [metadata] [records] [hwm] [leaks] [snapshots]

Needs `pip install memray==1.20.0`. Stacks are leaf first, as [function, file, line]; frees have none.
"""

import json
import sys

from memray import FileReader

DEALLOCATORS = (1, 5, 15)  # pymalloc_free, free, munmap


def show(kind, record):
    frees = int(record.allocator) in DEALLOCATORS
    fields = {
        "kind": kind,
        "tid": record.tid,
        "thread_name": record.thread_name,
        "address": record.address,
        "size": record.size,
        "allocator": int(record.allocator),
        "count": record.n_allocations,
        "stack": None if frees else record.stack_trace(),
    }
    print(json.dumps(fields))


def main(path, *wanted):
    reader = FileReader(path)
    wanted = wanted or ("metadata", "records", "hwm", "leaks", "snapshots")
    if "metadata" in wanted:
        metadata = {name: str(getattr(reader.metadata, name)) for name in reader.metadata.__dataclass_fields__}
        print(json.dumps({"kind": "metadata", **metadata}))
    if "records" in wanted:
        for record in reader.get_allocation_records():
            show("record", record)
    if "hwm" in wanted:
        for record in reader.get_high_watermark_allocation_records(merge_threads=False):
            show("hwm", record)
    if "leaks" in wanted:
        for record in reader.get_leaked_allocation_records(merge_threads=False):
            show("leak", record)
    if "snapshots" in wanted:
        for snapshot in reader.get_memory_snapshots():
            print(json.dumps({"kind": "snapshot", "time": snapshot.time, "rss": snapshot.rss, "heap": snapshot.heap}))


main(*sys.argv[1:])
