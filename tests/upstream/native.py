"""Prints native and hybrid stacks as upstream's FileReader gives them.

usage: native.py CAPTURE

Tab-separated: size, then the hybrid stack, then the native one, leaf first, functions alone, separated by spaces."""
import sys

import memray

FREES = (1, 5, 15)


def functions(stack):
    return " ".join(function.replace(" ", "_") for function, _, _ in stack)


reader = memray.FileReader(sys.argv[1])
print("has_native_traces\t%s\t" % reader.metadata.has_native_traces)
is_aggregated = reader.metadata.file_format == memray.FileFormat.AGGREGATED_ALLOCATIONS
records = reader.get_leaked_allocation_records(merge_threads=False) if is_aggregated else reader.get_allocation_records()
for record in records:
    if record.allocator not in FREES and 700_000 < record.size < 710_000:
        print("%d\t%s\t%s" % (record.size, functions(record.hybrid_stack_trace()), functions(record.native_stack_trace())))
