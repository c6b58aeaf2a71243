"""Four threads that allocate without a pause and check what they stored; `stop` ends them.

Prints `ready`, and after `stop` either `ok OPERATIONS` or `bad` and what was found, with exit status 1.
"""
import mmap
import os
import random
import sys
import threading
import zlib

STOP = threading.Event()
BAD = []
DONE = []


def fill(rnd, kind, size):
    pattern = bytes([rnd.randrange(256)]) * size
    if kind == 0:
        return pattern
    if kind == 1:
        buffer = bytearray()
        for start in range(0, size, 700):
            buffer.extend(pattern[start:start + 700])
        return buffer
    if kind == 2:
        block = mmap.mmap(-1, size)
        block[:] = pattern
        return block
    if kind == 3:
        return list(pattern)
    return dict(enumerate(pattern))


def digest(value):
    if isinstance(value, list):
        value = bytes(value)
    elif isinstance(value, dict):
        value = bytes(value.values())
    elif isinstance(value, mmap.mmap):
        value = value[:]
    return len(value), zlib.crc32(value)


def work(seed):
    rnd = random.Random(seed)
    kept = []
    operations = 0
    try:
        while not STOP.is_set():
            size = rnd.randrange(1, 9000)
            value = fill(rnd, rnd.randrange(5), size)
            kept.append((value, digest(value)))
            if len(kept) > 64:
                value, expected = kept.pop(rnd.randrange(len(kept)))
                if digest(value) != expected:
                    BAD.append("thread %d, operation %d: stored %r, found %r" % (seed, operations, expected, digest(value)))
                    return
                if isinstance(value, mmap.mmap):
                    value.close()
            operations += 1
        for value, expected in kept:
            if digest(value) != expected:
                BAD.append("thread %d at the end: stored %r, found %r" % (seed, expected, digest(value)))
    except BaseException as error:
        BAD.append("thread %d: %r" % (seed, error))
    DONE.append(operations)


threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
os.write(1, b"ready\n")
os.read(0, 100)
STOP.set()
for thread in threads:
    thread.join()
if BAD or len(DONE) != 4:
    os.write(1, ("bad %s\n" % "; ".join(BAD)).encode())
    sys.exit(1)
os.write(1, ("ok %d\n" % sum(DONE)).encode())
