#!/usr/bin/env python3
"""Prints what `scripts/bench` measured as one table, upstream and this program side by side.

usage: bench_table.py DIRECTORY      with attach.jsonl, overhead.jsonl and reporters.jsonl in it
"""
import json
import os
import statistics
import sys


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


def main(directory):
    tools = ["memray", "this"]
    titles = {"memray": "upstream", "this": "this program"}
    table = {}
    for figures in (attach_figures, overhead_figures, reporter_figures):
        for what, figure, tool, value in figures(directory):
            table.setdefault(what, {}).setdefault(figure, {}).setdefault(tool, []).append(value)
    print("%-26s %-34s %14s %14s" % (("", "median") + tuple(titles[tool] for tool in tools)))
    for what, figures in table.items():
        title = what
        for figure, values in figures.items():
            cells = [median(values.get(tool, [])) for tool in tools]
            cells = ["-" if cell is None else "%.10g" % round(cell, 3) for cell in cells]
            print("%-26s %-34s %14s %14s" % (title, figure, cells[0], cells[1]))
            title = ""


main(sys.argv[1])
