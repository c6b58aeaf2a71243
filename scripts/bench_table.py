#!/usr/bin/env python3
"""Prints what `scripts/bench` measured as one table, upstream and this program side by side.

usage: bench_table.py DIRECTORY      with attach.jsonl, overhead.jsonl, memory.txt and reporters.jsonl in it
"""
import json
import os
import re
import statistics
import sys

TOOLS = ["memray", "this"]


def rows(directory, name):
    path = os.path.join(directory, name + ".jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def attach_figures(directory):
    for row in rows(directory, "attach"):
        what = "attach %s" % row["scen"]
        if row.get("how") != "exited" or row.get("rc"):
            yield what, "failed (%s, exit %s)" % (row.get("how"), row.get("rc")), row["tool"], 1
            continue
        if "detach_wall_s" in row:
            yield what, "detach command, s", row["tool"], row["detach_wall_s"]
            yield what, "python stalled by detach, ms", row["tool"], row.get("detach_py_gap_ms")
        yield what, "attach command, s", row["tool"], row["wall_s"]
        yield what, "python stalled by attach, ms", row["tool"], row.get("py_gap_ms")
        yield what, "native thread stalled, ms", row["tool"], row.get("nat_gap_ms")
        left = row.get("leftover") or {}
        yield what, "mappings left", row["tool"], left.get("nmaps")
        yield what, "RSS left, kB", row["tool"], left.get("rss_kb")


def overhead_figures(directory):
    for row in rows(directory, "overhead"):
        what = "workload %s" % row["wl"]
        yield what, "CPU, times untracked", row["tool"], row.get("icpu_ratio")
        yield what, "ns an allocation", row["tool"], row.get("ns_per_alloc")
        yield what, "bytes an allocation", row["tool"], row.get("bytes_per_alloc")
        yield what, "allocations seen", row["tool"], row.get("allocs")


def reporter_figures(directory):
    for row in rows(directory, "reporters"):
        what = "report %s" % row["report"]
        yield what, "wall, s", row["tool"], row["wall"]
        yield what, "CPU, s", row["tool"], row["cpu"]
        yield what, "RSS, MB", row["tool"], row["rss_mb"]
        if row["status"]:
            yield what, "failed", row["tool"], 1


def memory_figures(directory):
    """Two runs, upstream's first; what each added to the target's memory."""
    path = os.path.join(directory, "memory.txt")
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as lines:
        found = [re.search(r"^default .*RSS ([+-][\d.]+) MB anon ([+-][\d.]+) MB", line) for line in lines]
    for tool, match in zip(TOOLS, filter(None, found)):
        yield "a million live blocks", "RSS more, MB", tool, float(match[1])
        yield "a million live blocks", "private memory more, MB", tool, float(match[2])


def noise(directory):
    """How far apart the untracked runs of each workload lay: (median - minimum) / minimum, the worst of them."""
    runs = {}
    for row in rows(directory, "overhead"):
        runs.setdefault(row["wl"], []).append(row.get("base_icpu"))
    found = []
    for name, values in runs.items():
        values = [value for value in values if value]
        if len(values) > 1:
            found.append(((statistics.median(values) / min(values) - 1) * 100, name))
    return max(found, default=None)


def shown(value):
    return "-" if value is None else "%.10g" % round(value, 3)


def main(directory):
    titles = {"memray": "upstream", "this": "this program"}
    table = {}
    for figures in (attach_figures, overhead_figures, memory_figures, reporter_figures):
        for what, figure, tool, value in figures(directory):
            table.setdefault(what, {}).setdefault(figure, {}).setdefault(tool, []).append(value)
    columns = "%-24s %-30s %21s %21s %9s"
    print(columns % (("", "median (minimum)") + tuple(titles[tool] for tool in TOOLS) + ("ratio",)))
    for what, figures in table.items():
        title = what
        for figure, values in figures.items():
            cells, medians = [], []
            for tool in TOOLS:
                known = [value for value in values.get(tool, []) if value is not None]
                medians.append(median(known))
                several = " (%s)" % shown(min(known)) if len(known) > 1 else ""
                cells.append(shown(medians[-1]) + several)
            if medians == [None, None]:
                continue
            upstream, this = medians
            ratio = "%.2f" % (this / upstream) if this is not None and upstream else "-"
            print(columns % (title, figure, cells[0], cells[1], ratio))
            title = ""
    worst = noise(directory)
    if worst:
        print("Noise: the untracked runs' median lay up to %.0f %% above their minimum (%s)." % worst)
    print("Load at the end: %.1f %.1f %.1f, %d CPUs." % (os.getloadavg() + (os.cpu_count(),)))


main(sys.argv[1])
