"""Drives python_calls.c and makes small objects, and writes down what a tracker of Python's allocators owes.

usage: python_calls.py LIBRARY LOG

Prints `ready`, then answers each line with `done`:

    go          everything, in this thread and in others
    report      writes LOG, in the form of native_calls.py: `run` and `event`, and
                    object  size  tid  stack      one small object of this size at this place
    churn       a thread allocates and frees until `still`; the answer to that is how often
    start, stop     tracemalloc
    flip        a thread starts and stops tracemalloc over and over until `still`
    use         allocates and frees in every domain
    fork        a child that waits to be ended; the answer is its process id
"""
import ctypes
import os
import sys
import threading
import time
import tracemalloc

from native_id import get_native_id
from written_stack import stack_of

CAPACITY = 4096
KEEP = []
LOG = []


class Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("allocator", "address", "size", "category")]


class Stranger(ctypes.Structure):
    _fields_ = [
        ("log", ctypes.c_void_p),
        ("fence", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("tid", ctypes.c_int),
    ]


def enter(name, tid, fence, stack, events):
    # At once: another thread writes down its own.
    LOG.extend([("run", name, tid, fence, stack)] + [("event", e.allocator, e.address, e.size, e.category) for e in events])


def run(library, name, fence, size):
    events = (Event * CAPACITY)()
    stack = stack_of(sys._getframe(), sys._getframe().f_lineno + 1)
    count = library.run(ctypes.addressof(events), fence, size)
    enter(name, get_native_id(), fence, stack, events[:count])


def strangers(free_library):
    logs = [(Event * CAPACITY)() for _ in range(4)]
    every = (Stranger * 4)()
    for number, one in enumerate(every):
        one.log, one.fence, one.size = ctypes.addressof(logs[number]), 820001 + number, 100 + 20 * number
    free_library.strangers(every, 4)
    for one, log in zip(every, logs):
        enter("without Python", one.tid, one.fence, "", log[: one.count])


def small_objects(first):
    """Each size once; one in three stays."""
    for size in range(first, first + 120):
        stack = stack_of(sys._getframe(), sys._getframe().f_lineno + 1)
        made = bytes(size)
        LOG.append(("object", sys.getsizeof(made), get_native_id(), stack, int(size % 3 == 0)))
        if size % 3 == 0:
            KEEP.append(made)


def go(library, free_library):
    run(library, "main", 810001, 40)
    threads = [threading.Thread(target=run, args=(library, "thread", 810002 + i, 60 + 20 * i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    strangers(free_library)
    small_objects(200)
    thread = threading.Thread(target=small_objects, args=(330,))
    thread.start()
    thread.join()


class Repeated:
    """Does something over and over in a thread."""

    def __init__(self, what):
        self.what, self.times, self.ends = what, 0, False
        self.thread = threading.Thread(target=self.body)
        self.thread.start()

    def body(self):
        while not self.ends:
            self.what()
            self.times += 1

    def end(self):
        self.ends = True
        self.thread.join()
        return self.times


def flip():
    tracemalloc.start()
    kept = [bytes(100) for _ in range(10)]
    tracemalloc.stop()
    del kept


def main(path, log):
    library, free_library = ctypes.PyDLL(path), ctypes.CDLL(path)
    library.run.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    library.run.restype = ctypes.c_size_t
    library.churn.restype = ctypes.c_long
    repeated = []
    os.write(1, b"ready\n")
    while True:
        command = os.read(0, 100).strip()
        answer = 0
        if command == b"go":
            go(library, free_library)
        elif command == b"report":
            with open(log, "w") as out:
                for row in LOG:
                    out.write("\t".join(map(str, row)) + "\n")
        elif command == b"churn":
            repeated.append(Repeated(lambda: library.churn(50)))
        elif command == b"flip":
            repeated.append(Repeated(flip))
        elif command == b"still":
            answer = sum(one.end() for one in repeated)
            repeated.clear()
        elif command == b"start":
            tracemalloc.start()
        elif command == b"stop":
            tracemalloc.stop()
        elif command == b"fork":
            answer = os.fork()
            if answer == 0:
                while True:
                    library.churn(10)
                    time.sleep(0.01)
        elif command == b"use":
            answer = library.churn(1000)
        else:
            break
        os.write(1, b"done %d\n" % answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
