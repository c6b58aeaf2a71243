"""Keeps and drops blocks of known sizes, in two threads. Input, one word a line, each answered by `done`.

keep: the main thread keeps 40 blocks, then drops 10 of them; the thread `filler` keeps 25. peak: 60 MB that are
dropped at once.
"""
import os
import queue
import threading

MAIN, OTHER = [], []
WORK = queue.Queue()
DONE = queue.Queue()


def keep_in_main():
    for _ in range(40):
        MAIN.append(bytearray(50_001))
    del MAIN[10:20]


def keep_in_thread():
    for _ in range(25):
        OTHER.append(bytearray(70_001))


def peak():
    return len([bytearray(6_000_001) for _ in range(10)])


def filler():
    while True:
        WORK.get()
        keep_in_thread()
        DONE.put(None)


threading.Thread(target=filler, name="filler", daemon=True).start()
os.write(1, b"ready\n")
while True:
    word = os.read(0, 100).decode().strip()
    if not word:
        break
    if word == "keep":
        keep_in_main()
        WORK.put(None)
        DONE.get()
    elif word == "peak":
        peak()
    os.write(1, b"done\n")
