"""Comes into a state that a debugger rarely meets, or leaves it at the next input.

usage: states.py STATE [LIBRARY]

serve            allocates 54,321 bytes at each line, answered by `done`
leader_exited    the same in another thread; the process' first one has ended
vfork MS         (LIBRARY from states.c) at each `vfork` line waits for a vforked child that sleeps for MS; `forked`
vfork_others MS  the same with another thread that serves
at_exit          at `exit` the interpreter shuts down, in an atexit function that says `leaving` and serves once
finalizing       the same in a destructor, when the interpreter is half gone
"""
import atexit
import ctypes
import os
import sys
import threading
import time

state = sys.argv[1]
read, write, exit_ = os.read, os.write, os._exit


def allocate():
    return bytearray(54321)


def serve_once():
    line = read(0, 100)
    allocate()
    if line:
        write(1, b"done\n")
    return line


def serve():
    while serve_once():
        pass
    exit_(0)


def leave():
    write(1, b"leaving\n")
    serve_once()


class Last:
    def __del__(self, leave=leave):
        leave()


if state == "serve":
    write(1, b"ready\n")
    serve()
elif state == "leader_exited":
    def serve_alone():
        while open("/proc/self/stat").read().rsplit(") ", 1)[1][0] != "Z":
            time.sleep(0.001)
        write(1, b"ready\n")
        serve()
    threading.Thread(target=serve_alone).start()
    # exit, of this thread alone.
    ctypes.CDLL(None).syscall(60, 0)
elif state.startswith("vfork"):
    native = ctypes.CDLL(sys.argv[3])
    if state == "vfork_others":
        def sleep():
            time.sleep(3600)
        threading.Thread(target=sleep, daemon=True).start()
    write(1, b"ready\n")
    while read(0, 100):
        write(1, b"forking\n")
        assert native.vfork_and_wait(int(sys.argv[2])) == 3
        allocate()
        write(1, b"forked\n")
    exit_(0)
elif state == "at_exit":
    atexit.register(leave)
    write(1, b"ready\n")
    read(0, 100)
elif state == "finalizing":
    # The interpreter clears this module last.
    sys.kept = Last()
    write(1, b"ready\n")
    read(0, 100)
