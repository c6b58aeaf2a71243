"""Threads with names, in all ways. Each command is answered by `done`.

Before `ready`: `worker before` waits for work. work: every living thread keeps 15 blocks. new NAME: another thread of
threading's, which keeps 15 blocks. short NAME: one that ends after its work. rename NAME: the last thread calls itself
so. native: a thread of `_thread`'s, called `native-name` by prctl. native_rename: it calls itself `native-later`.
main NAME: renames the main thread.
"""
import _thread
import ctypes
import os
import queue
import sys
import threading

KEPT = []
DONE = queue.Queue()
WORK = {}
PR_SET_NAME = 15


def keep():
    for _ in range(15):
        KEPT.append(bytearray(45_678))


def serve(work):
    while True:
        job = work.get()
        if job is None:
            DONE.put(None)
            return
        job()
        DONE.put(None)


def start(name):
    work = queue.Queue()
    thread = threading.Thread(target=serve, args=(work,), name=name, daemon=True)
    WORK[thread] = work
    thread.start()
    return thread


def tell(work, job):
    work.put(job)
    DONE.get()


def call_native(name):
    ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)


def serve_native(work):
    call_native(b"native-name")
    serve(work)


last = start("worker before")
native = None
os.write(1, b"ready\n")
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "work":
        keep()
        for work in list(WORK.values()):
            tell(work, keep)
    elif word == "new":
        last = start(rest)
        tell(WORK[last], keep)
    elif word == "short":
        last = start(rest)
        tell(WORK[last], keep)
        WORK.pop(last).put(None)
        DONE.get()
        last.join()
    elif word == "rename":
        last.name = rest
    elif word == "native":
        native = queue.Queue()
        WORK["native"] = native
        _thread.start_new_thread(serve_native, (native,))
        tell(native, keep)
    elif word == "native_rename":
        tell(native, lambda: call_native(b"native-later"))
    elif word == "main":
        threading.main_thread().name = rest
    os.write(1, b"done\n")
