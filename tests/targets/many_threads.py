"""As many threads as it is told, all alive at once; at `work` each keeps a block of 30,000 bytes, and `done` follows.

usage: many_threads.py COUNT. Prints `ready`, or why it can't have so many.
"""
import os
import sys
import threading

COUNT = int(sys.argv[1])
KEPT = [None] * COUNT
go = threading.Event()
done = threading.Barrier(COUNT + 1)


def work(index):
    go.wait()
    KEPT[index] = bytearray(30_000)
    done.wait()
    threading.Event().wait()


threading.stack_size(64 << 10)
try:
    for index in range(COUNT):
        threading.Thread(target=work, args=(index,), daemon=True).start()
except RuntimeError as error:
    print("unavailable", error, flush=True)
    os._exit(0)
os.write(1, b"ready\n")
while os.read(0, 100):
    go.set()
    done.wait()
    os.write(1, b"done\n")
os._exit(0)
