"""Drives native_calls.c and writes down its events.

usage: native_calls.py LIBRARY COPY LOG

LIBRARY is loaded at the start, COPY (the same code under another name) during the window. Prints `ready`;
`go` runs everything and answers `done`; `report` writes LOG and answers `reported`. LOG, tab-separated:

    run      name  tid  fence-bytes
    event    allocator  address  size            the events of that run, in order
    threads  size                                run_threads(size) was called: 4 × 2,001 blocks
    forked   size                                only a forked child used blocks of this size
"""
import ctypes
import os
import sys
import threading

import _ctypes

CAPACITY = 4096


class Event(ctypes.Structure):
    _fields_ = [("allocator", ctypes.c_uint64), ("address", ctypes.c_uint64), ("size", ctypes.c_uint64)]


LOG = []


def load(path):
    library = ctypes.CDLL(path)
    library.run.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]
    library.run.restype = ctypes.c_size_t
    library.run_threads.argtypes = [ctypes.c_size_t]
    library.churn.argtypes = [ctypes.c_size_t, ctypes.c_int]
    return library


def run(library, name, fence, size):
    events = (Event * CAPACITY)()
    count = library.run(events, CAPACITY, fence, size)
    assert 0 < count <= CAPACITY
    LOG.append(("run", name, threading.get_native_id(), fence))
    LOG.extend(("event", e.allocator, e.address, e.size) for e in events[:count])


def go(library, copy_path):
    run(library, "loaded before", 700001, 5000)
    thread = threading.Thread(target=run, args=(library, "loaded before, in a thread", 710001, 5200))
    thread.start()
    thread.join()
    for i in range(3):
        copy = load(copy_path)
        run(copy, "loaded in the window", 720001 + i, 5400)
        _ctypes.dlclose(copy._handle)
    copy = load(copy_path)
    run(copy, "loaded again", 730001, 5600)
    run(library, "loaded before, again", 740001, 5800)
    assert library.run_threads(60001) == 0
    LOG.append(("threads", 60001))
    child = os.fork()
    if child == 0:
        library.churn(800001, 1000)
        copy.churn(800001, 1000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    LOG.append(("forked", 800001))


def main(path, copy_path, log):
    library = load(path)
    # Some slots are bound before the tracker comes, some still hold their lazy stubs.
    library.churn(64, 3)
    os.write(1, b"ready\n")
    while True:
        command = os.read(0, 100).strip()
        if command == b"go":
            go(library, copy_path)
            os.write(1, b"done\n")
        elif command == b"report":
            with open(log, "w") as out:
                for row in LOG:
                    out.write("\t".join(map(str, row)) + "\n")
            os.write(1, b"reported\n")
        else:
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
