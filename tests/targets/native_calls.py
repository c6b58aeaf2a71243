"""Drives native_calls.c and writes down its events.

usage: native_calls.py LIBRARY COPY LOG

LIBRARY is loaded at the start, COPY (the same code under another name) during the window. Prints `ready`;
`go` runs everything and answers `done`; `report` writes LOG and answers `reported`; `exit` ends it, which lets a
function registered with `atexit` allocate. LOG, tab-separated:

    run      name  tid  fence-bytes  stack       between two blocks of so many bytes the thread did just what follows
    event    allocator  address  size  category
    threads  size                                run_threads(size) was called: 4 × 2,001 blocks
    forked   size                                only a forked child used blocks of this size
    python   size  tid  stack                    a bytearray of this size

A stack is leaf first, frames separated by \\x1e, each `function \\x1f file \\x1f line`; it is empty for a thread that Python
does not know.
"""
import _thread
import atexit
import ctypes
import os
import sys
import threading

import _ctypes
from native_id import get_native_id
from written_stack import stack_of

CAPACITY = 4096
KEEP = []


class Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("allocator", "address", "size", "category")]


CALLBACK = ctypes.CFUNCTYPE(None)


class Stranger(ctypes.Structure):
    _fields_ = [
        ("log", ctypes.c_void_p),
        ("fence", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("enter_python", CALLBACK),
        ("held", ctypes.c_void_p),
        ("tid", ctypes.c_int),
        ("before_count", ctypes.c_size_t),
        ("all_count", ctypes.c_size_t),
    ]


LOG = []


def load(path):
    library = ctypes.CDLL(path)
    library.run.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    library.run.restype = ctypes.c_size_t
    library.run_threads.argtypes = [ctypes.c_size_t]
    library.churn.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.stranger.argtypes = [ctypes.POINTER(Stranger)]
    library.stranger.restype = None
    return library


def enter(name, tid, fence, stack, events):
    LOG.append([("run", name, tid, fence, stack)] + [("event", e.allocator, e.address, e.size, e.category) for e in events])


def run(library, name, fence, size, alone=True):
    events = (Event * CAPACITY)()
    stack = stack_of(sys._getframe(), sys._getframe().f_lineno + 1)
    count = library.run(events, CAPACITY, fence, size, alone)
    assert 0 < count <= CAPACITY
    enter(name, get_native_id(), fence, stack, events[:count])


def deeper(depth, *arguments):
    if depth:
        return deeper(depth - 1, *arguments)
    return run(*arguments)


def generated(*arguments):
    yield from (run(*arguments) for _ in range(1))


def together(library):
    """Many threads at once, of both kinds, each with a stack of its own."""
    started = threading.Barrier(8)
    ended = threading.Semaphore(0)

    def body(number):
        started.wait()
        arguments = (library, "at once %d" % number, 750001 + number, 6000 + 150 * number, False)
        deeper(number, *arguments)
        if number % 2:
            list(generated(library, arguments[1] + " again", 760001 + number, 7600 + 150 * number, False))
        ended.release()

    for number in range(8):
        if number < 4:
            threading.Thread(target=body, args=(number,)).start()
        else:
            _thread.start_new_thread(body, (number,))
    for _ in range(8):
        ended.acquire()


def strange(library):
    """A thread that C made and that calls Python."""
    events = (Event * CAPACITY)()

    def called():
        stack = stack_of(sys._getframe(), sys._getframe().f_lineno + 1)
        KEEP.append(bytearray(770001))
        LOG.append([("python", KEEP[-1].__alloc__(), get_native_id(), stack)])

    it = Stranger(ctypes.addressof(events), 780001, 4800, CALLBACK(called))
    library.stranger(it)
    enter("before Python knows the thread", it.tid, it.fence, "", events[: it.before_count])
    enter("in a destructor of the thread's", it.tid, it.fence, "", events[it.before_count:it.all_count])


def at_exit():
    KEEP.append(bytearray(790001))


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
    together(copy)
    strange(copy)
    assert library.run_threads(60001) == 0
    LOG.append([("threads", 60001)])
    child = os.fork()
    if child == 0:
        library.churn(800001, 1000)
        copy.churn(800001, 1000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    LOG.append([("forked", 800001)])
    # Not in the log, which is complete by then: the test knows its size.
    atexit.register(at_exit)


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
                for rows in LOG:
                    for row in rows:
                        out.write("\t".join(map(str, row)) + "\n")
            os.write(1, b"reported\n")
        else:
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
