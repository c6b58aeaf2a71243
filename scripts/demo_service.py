"""A small service that leaks, for `scripts/demo`. Standard library only.

A request loop remembers every session for ever, in dicts; a worker thread keeps every payload it ever rendered,
in buffers. Both look harmless. Prints `ready PID` once it serves; ends at SIGTERM, and by itself after a minute.
"""
import os
import queue
import signal
import threading
import time

LIFETIME_SECONDS = 60
SESSIONS = {}
PAYLOADS = []
JOBS = queue.Queue(maxsize=100)


def permit_tracer():
    """Under Yama's ptrace_scope 1 a process may only be traced by its ancestors, unless it permits others."""
    try:
        import ctypes
        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return  # then the demo needs root where Yama is on
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, 2 ** 64 - 1
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)


def remember_session(number):
    # A dict of 40 keys: its table is far above the 512 bytes that Python's own arenas serve.
    SESSIONS[number] = {"field %d" % i: number for i in range(40)}  # leak: dicts


def cache_payload(number):
    PAYLOADS.append(bytearray(4096 + number % 512))  # leak: buffers


def render(number):
    """Honest work: allocates, and drops what it allocated."""
    return len("".join(str(n) for n in range(number % 500))) + len(bytes(2000))


def worker():
    while True:
        number = JOBS.get()
        render(number)
        cache_payload(number)


def handle_request(number):
    remember_session(number)
    JOBS.put(number)
    render(number)


def serve():
    number = 0
    while True:
        handle_request(number)
        number += 1
        time.sleep(0.002)


def main():
    signal.alarm(LIFETIME_SECONDS)
    permit_tracer()
    threading.Thread(target=worker, name="worker", daemon=True).start()
    os.write(1, b"ready %d\n" % os.getpid())
    serve()


main()
