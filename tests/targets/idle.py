"""Blocks in one system call, then says what the call returned and how long it took.

usage: idle.py KIND      (see KINDS)

Prints `ready DETAIL`, blocks, and when the call is over `result <repr> <seconds>`; then allocates 123,457 bytes
in `after_wait` and prints `allocated`. Ends at the next input.
"""
import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

SECONDS = 2.0


def announce(detail=""):
    os.write(1, ("ready %s\n" % detail).encode())


def sleep():
    announce()
    return lambda: time.sleep(SECONDS)


def read():
    announce()
    return lambda: os.read(0, 100)


def listening():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    return server


def accept():
    server = listening()
    announce(server.getsockname()[1])
    return lambda: type(server.accept()).__name__


def accept_timeout():
    server = listening()
    server.settimeout(60)
    announce(server.getsockname()[1])
    return lambda: type(server.accept()).__name__


def epoll():
    poller = select.epoll()
    poller.register(0, select.EPOLLIN)
    announce()
    return poller.poll


def epoll_timeout():
    poller = select.epoll()
    announce()
    return lambda: poller.poll(SECONDS)


def select_ready():
    announce()
    return lambda: select.select([0], [], [])


def select_timeout():
    announce()
    return lambda: select.select([], [], [], SECONDS)


def poll():
    poller = select.poll()
    poller.register(0, select.POLLIN)
    announce()
    return poller.poll


def wait():
    child = subprocess.Popen([sys.executable, "-c", "import os, sys; os.read(0, 100); sys.exit(7)"])
    announce()
    return child.wait


def event_timeout():
    event = threading.Event()
    announce()
    return lambda: event.wait(SECONDS)


def lock():
    held = threading.Lock()
    held.acquire()

    def release():
        os.read(0, 100)
        held.release()
    threading.Thread(target=release, daemon=True).start()
    announce()
    return held.acquire


def pause():
    signal.signal(signal.SIGUSR1, lambda *args: None)
    announce()
    return signal.pause


def sigtimedwait():
    announce()
    return lambda: signal.sigtimedwait([signal.SIGUSR2], SECONDS)


def asyncio_sleep():
    announce()
    return lambda: asyncio.run(asyncio.sleep(SECONDS))


KINDS = {name: function for name, function in list(globals().items())
         if callable(function) and getattr(function, "__module__", None) == "__main__"
         and name not in ("announce", "listening")}


def after_wait():
    return bytes(123457 - sys.getsizeof(b""))


def main(kind):
    call = KINDS[kind]()
    before = time.monotonic()
    result = call()
    took = time.monotonic() - before
    os.write(1, ("result %r %.4f\n" % (result, took)).encode())
    if kind in ("epoll", "select_ready", "poll"):
        # They have only seen that there is something to read.
        os.read(0, 100)
    kept = after_wait()
    os.write(1, b"allocated\n")
    os.read(0, 100)
    del kept


main(sys.argv[1])
