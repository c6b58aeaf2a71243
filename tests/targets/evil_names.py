"""Names for everything that has one, with control characters and marks that turn the direction of writing: its own path
and argument, functions, files, modules' paths, threads. Allocates in all of them, all the time.
"""
import os
import sys
import threading
import time

EVIL = sys.argv[1]
sys.path.append("/nowhere/" + EVIL)
sys.argv.append("nul\0inside")

kept = []


def allocate():
    while True:
        kept.append(bytearray(100_000))
        del kept[:-50]
        time.sleep(0.01)


names = {"co_name": "f" + EVIL, "co_filename": "/srv/" + EVIL + ".py"}
if hasattr(allocate.__code__, "co_qualname"):
    names["co_qualname"] = "q" + EVIL
allocate.__code__ = allocate.__code__.replace(**names)

thread = threading.Thread(target=allocate, daemon=True, name="t" + EVIL)
thread.start()


def name_of_the_kernel(tid, name):
    with open("/proc/self/task/%d/comm" % tid, "wb") as file:
        file.write(name)


name_of_the_kernel(thread.native_id, EVIL.encode()[:15])
name_of_the_kernel(os.getpid(), EVIL.encode()[:15])
os.write(1, b"ready\n")
while True:
    time.sleep(1)
