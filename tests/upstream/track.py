"""Runs a target's `go` under upstream's own Tracker, so that the targets' logs are held to an independent
tracker as well.

usage: track.py allocations.py CAPTURE LOG
"""
import _thread
import os
import runpy
import sys
import threading

import memray


def main(target, capture, log):
    sys.argv = [target, log]
    # As for a script; runpy does that for directories only.
    sys.path.insert(0, os.path.dirname(target))
    names = runpy.run_path(target, run_name="target")
    lock, back = _thread.allocate_lock(), _thread.allocate_lock()
    lock.acquire()
    back.acquire()
    threading.Thread(target=names["waiting"], args=(lock, back), daemon=True).start()
    with memray.Tracker(capture):
        names["go"](lock, back)
    names["report"](log)


main(*sys.argv[1:])
