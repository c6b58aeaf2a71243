"""Holds upstream's hybrid stacks to its Python stacks: each of Python's frames is there, in order, and native ones besides.

usage: hybrid.py CAPTURE

Prints, tab-separated: how many different stacks were judged, how many have no native frames (not all calls of the
interpreter's loop were met), how many are wrong; then the latter, a line each, leaf first."""
import sys

import memray

FREES = (1, 5, 15)
reader = memray.FileReader(sys.argv[1])
seen = set()
counts = {"judged": 0, "plain": 0, "wrong": 0}
lines = []
for record in reader.get_allocation_records():
    if record.allocator in FREES or record.native_stack_id == 0:
        continue
    key = (record.stack_id, record.native_stack_id)
    if key in seen:
        continue
    seen.add(key)
    python = record.stack_trace()
    if not python:
        continue
    hybrid = record.hybrid_stack_trace()
    counts["judged"] += 1
    names = " ".join(function for function, _, _ in hybrid[:40])
    if hybrid == python:
        counts["plain"] += 1
        lines.append("plain: " + " ".join(function for function, _, _ in python[:20]))
        native = record.native_stack_trace()
        lines.append("   of: " + " ".join(function for function, _, _ in native[:60]))
        continue
    left = iter(hybrid)
    if not all(frame in left for frame in python) or any("EvalFrameDefault" in function for function, _, _ in hybrid):
        counts["wrong"] += 1
        lines.append("wrong: " + names)
print("%(judged)d\t%(plain)d\t%(wrong)d" % counts)
for line in lines[:20]:
    print(line)
