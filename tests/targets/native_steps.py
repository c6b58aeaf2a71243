"""usage: native_steps.py LIBRARY COPY

Drives native_steps.cpp, of which COPY is a copy: `steps`, `exceptions`, `greenlets`; `notes FILE` writes what was noted, a line a block: kind, size,
return addresses."""
import ctypes
import sys
import threading

try:
    # Before the window, since the unwind tables of a new library come a moment after it.
    import greenlet
except ImportError:
    pass

library = ctypes.CDLL(sys.argv[1])
library.many_exceptions.restype = ctypes.c_long
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)


def greenlets():
    """Two that switch back and forth from deep within native code, each with a stack of its own."""

    def nest(depth, body):
        if depth == 0:
            return body()
        between = CALLBACK(lambda: nest(depth - 1, body))
        return library.through_callback(between)

    def ping_body():
        for _ in range(5):
            library.noted(b"greenlet")
            other.switch()
            library.noted(b"greenlet")
        return 0

    def pong_body():
        while True:
            library.noted(b"greenlet")
            first.switch()

    first = greenlet.greenlet(lambda: nest(6, ping_body))
    other = greenlet.greenlet(lambda: nest(3, pong_body))
    first.switch()
    assert first.dead
    library.noted(b"greenlet")


library.warm()
assert library.load(sys.argv[2].encode())
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    command = line.split()
    if command[0] == "steps":
        steps = library.all_steps(sys.argv[2].encode())
        assert steps > 500, steps
    elif command[0] == "exceptions":
        assert library.exceptions() == 2
        assert library.many_exceptions() == 2000, "caught in threads"
    elif command[0] == "greenlets":
        greenlets()
        thread = threading.Thread(target=greenlets)
        thread.start()
        thread.join()
    else:
        library.print_notes(command[1].encode())
    sys.stdout.write("done\n")
    sys.stdout.flush()
