"""usage: native_frames.py LIBRARY MORE_LIBRARY OTHER_LIBRARY

Allocates through native_frames.c from frames of all kinds at each `all`; `notes FILE` writes what that has noted, a
line a block: kind, size, return addresses."""
import ctypes
import sys
import threading

library = ctypes.CDLL(sys.argv[1])
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)


@CALLBACK
def python_between():
    return library.noted(b"callback") != 0


def inner():
    return library.through_callback(python_between)


def outer():
    return inner()


library.warm()
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    command = line.split()
    if command[0] == "all":
        library.all()
        outer()
        thread = threading.Thread(target=outer)
        thread.start()
        thread.join()
        library.in_library(sys.argv[2].encode(), b"loaded")
        library.in_library(sys.argv[3].encode(), b"loaded")
        library.in_library(sys.argv[2].encode(), b"loaded")
    else:
        library.print_notes(command[1].encode())
    sys.stdout.write("done\n")
    sys.stdout.flush()
