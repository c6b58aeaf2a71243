"""Blocks in one system call made by native code, then says what it returned and how long it took.

usage: waits.py LIBRARY KIND SECONDS [OTHERS [OTHER_KIND]]    (LIBRARY from waits.c; SECONDS < 0: no limit)

OTHERS threads wait meanwhile in OTHER_KIND (default: nanosleep; `A,B`: the last one in B, the others in A). Prints `ready TIDS` (the main thread's first) or
`unavailable REASON`; one line of input ends a wait without limit. Then `result RETURNED SECONDS`; allocates 123,457
bytes in `after_wait` and prints `allocated`. Ends at the next input.
"""
import ctypes
import os
import sys
import threading
import time

from native_id import get_native_id


def after_wait():
    return bytes(123457 - sys.getsizeof(b""))


def main(library, kind, seconds, others=0, other_kind="nanosleep"):
    native = ctypes.CDLL(library)
    native.wait_for.argtypes = [ctypes.c_char_p, ctypes.c_double]
    native.wait_for.restype = ctypes.c_long
    error = native.prepare(kind.encode())
    if error:
        os.write(1, ("unavailable %s\n" % os.strerror(-error)).encode())
        return
    tids = [get_native_id()]
    started = threading.Semaphore(0)

    def sleep(kind):
        tids.append(get_native_id())
        started.release()
        native.wait_for(kind.encode(), 3600.0)

    kinds = other_kind.split(",")
    for number in range(int(others)):
        last = number == int(others) - 1
        threading.Thread(target=sleep, args=(kinds[-1 if last else 0],), daemon=True).start()
        started.acquire()
    os.write(1, ("ready %s\n" % " ".join(map(str, tids))).encode())
    before = time.monotonic()
    result = native.wait_for(kind.encode(), float(seconds))
    took = time.monotonic() - before
    native.clean_up()
    os.write(1, ("result %d %.4f\n" % (result, took)).encode())
    kept = after_wait()
    os.write(1, b"allocated\n")
    os.read(0, 100)
    del kept


main(*sys.argv[1:])
os._exit(0)
