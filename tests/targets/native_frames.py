"""usage: native_frames.py LIBRARY

Allocates through native_frames.c from frames of all kinds at each `all`. `load FILE`, `call KIND` and `unload` do so
from a library that comes and goes. `notes FILE` writes what was noted, a line a block: kind, size, return
addresses."""
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
    elif command[0] == "load":
        assert library.load(command[1].encode())
    elif command[0] == "call":
        assert library.call_loaded(command[1].encode())
    elif command[0] == "unload":
        assert library.unload()
    else:
        library.print_notes(command[1].encode())
    sys.stdout.write("done\n")
    sys.stdout.flush()
