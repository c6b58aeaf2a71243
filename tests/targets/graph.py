"""Keeps memory in two threads, some of it below a function whose name and file are out to harm a page that shows them.

Asked to `go` it allocates, to `more` it allocates more and frees the rest; answers `done`.
"""
import os
import threading

EVIL = "</script><img src=x onerror=\"document.title='owned'\">\u202e&amp;"
kept = []
threads = []
has_allocated = threading.Event()
may_end = threading.Event()


def leaf(size):
    kept.append(bytearray(size))  # <b>the line</b>


def first():
    leaf(3_000_000)


def second():
    leaf(1_000_000)
    leaf(500_000)


def evil():
    leaf(2_000_000)


names = {"co_name": EVIL, "co_filename": "/srv/" + EVIL + ".py"}
if hasattr(evil.__code__, "co_qualname"):
    names["co_qualname"] = EVIL
evil.__code__ = evil.__code__.replace(**names)


def go():
    first()
    second()
    evil()
    threads.append(threading.Thread(target=work, name=EVIL))
    threads[0].start()
    has_allocated.wait()


def work():
    first()
    has_allocated.set()
    # Threads that are gone at once may be left without their names.
    may_end.wait()


def more():
    may_end.set()
    threads[0].join()
    kept.clear()
    leaf(700_000)


os.write(1, b"ready\n")
while True:
    word = os.read(0, 100).decode().strip()
    if word not in ("go", "more"):
        break
    globals()[word]()
    os.write(1, b"done\n")
