"""Starts children in every way that Python knows; each command is one line and is answered by one.

usage: forks.py LIBRARY

A child checks what it stored in memory of its own, in blocks that only children allocate (CHILD_SIZES), in functions
whose names begin with `child`; the parent allocates PARENT_SIZE, `parent()` once for each child.

Answers `done CHILDREN`. lasting: a child that stays, answers `forked PID`; child: let it work, it answers itself;
end: let it end. exec WHAT: become another program, which says `executed` and answers each line.
"""
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import zlib

CHILD_SIZES = (41_111, 42_222, 143_333)
PARENT_SIZE = 51_111
PARENT_ROUND = 3
MADE = 0
LOCK = threading.Lock()


def parent():
    for i in range(PARENT_ROUND):
        bytearray(PARENT_SIZE)


def made(count=1):
    global MADE
    with LOCK:
        MADE += count
        for _ in range(count):
            parent()


def child_sums(seed=5):
    """A checksum over memory that this child allocated, filled and changed. Frees all of it."""
    kept = [bytearray(CHILD_SIZES[i % 3]) for i in range(12)]
    for i, block in enumerate(kept):
        block[:] = bytes([(seed + i) % 256]) * len(block)
        block.extend(b"grown" * 5000)
    for i, block in enumerate(kept):
        if block.count((seed + i) % 256, 0, CHILD_SIZES[i % 3]) != CHILD_SIZES[i % 3]:
            return 0
    total = 1
    for block in kept:
        total = zlib.crc32(block, total)
    return total


WANTED = child_sums()


def child_exits():
    try:
        os._exit(0 if child_sums() == WANTED else 7)
    finally:
        os._exit(8)


def reap(pid):
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    made()


def fork(count=5):
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            child_exits()
        reap(pid)


def child_threads():
    results = []
    threads = [threading.Thread(target=lambda: results.append(child_sums())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0 if results == [WANTED] * 3 else 7)


def fork_then_threads():
    pid = os.fork()
    if pid == 0:
        child_threads()
    reap(pid)


def in_threads(function, count=4):
    failed = []

    def run():
        try:
            function()
        except BaseException as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def double_fork():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        child_sums()
        if os.fork() == 0:
            os.write(writer, b"good" if child_sums() == WANTED else b"bad!")
            os._exit(0)
        os._exit(0)
    os.close(writer)
    reap(pid)
    said = os.read(reader, 4)
    os.close(reader)
    assert said == b"good", said
    made()


def spawn():
    # Before 3.8 there is none.
    for function in filter(None, (getattr(os, name, None) for name in ("posix_spawn", "posix_spawnp"))):
        reap(function("/bin/true", ["true"], os.environ))


def child_prepares():
    child_sums()


def run_subprocess():
    choices = [{}, {"close_fds": False}, {"preexec_fn": child_prepares}, {"start_new_session": True},
               {"close_fds": False, "restore_signals": False}, {"cwd": "/"}, {"stdin": subprocess.DEVNULL}]
    for choice in choices:
        child = subprocess.run(["/bin/echo", "it lives"], stdout=subprocess.PIPE, **choice)
        assert child.returncode == 0 and child.stdout == b"it lives\n", (choice, child)
        made()
    assert os.system("exit 3") >> 8 == 3
    made()


def child_task(number):
    return number, child_sums()


def workers(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = pool.map(child_task, range(8))
        pool.close()
        pool.join()
    assert results == [(i, WANTED) for i in range(8)], results
    queue = context.Queue()
    process = context.Process(target=child_puts, args=(queue,))
    process.start()
    assert queue.get() == WANTED
    process.join()
    assert process.exitcode == 0
    made(2)


def child_puts(queue):
    queue.put(child_sums())


def storm():
    in_threads(lambda: fork(25))


def executes(what):
    answers = "import os\nos.write(1, b'executed\\n')\nwhile os.read(0, 9): os.write(1, b'done\\n')"
    if what == "other":
        os.execv("/bin/sh", ["sh", "-c", "echo executed; while read line; do echo done; done"])
    elif what == "thread":
        threading.Thread(target=os.execv, args=(sys.executable, [sys.executable, "-c", answers])).start()
        signal.pause()
    elif what == "interpreter":
        # Another version where there is one.
        other = "/usr/bin/python3" if os.path.realpath(sys.executable) != "/usr/bin/python3" else sys.executable
        other = other if os.path.exists(other) else sys.executable
        os.execv(other, [other, "-c", answers])


class Lasting:
    """A child that works at each byte of its pipe. Where its parent is gone it stays for a while."""

    def __init__(self):
        reader, self.writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.writer)
            kept = {i: bytes([i]) * 3000 for i in range(100)}
            while True:
                word = os.read(reader, 1)
                if not word:
                    signal.alarm(120)
                    signal.pause()
                if word == b"e":
                    os._exit(0 if all(block.count(i) == 3000 for i, block in kept.items()) else 7)
                if word == b"f":
                    fork(1)
                good = child_sums() == WANTED
                child_works()
                os.write(1, b"child did\n" if good else b"child is wrong\n")
        os.close(reader)

    def end(self):
        os.write(self.writer, b"e")
        status = os.waitpid(self.pid, 0)[1]
        assert status == 0, status


def child_works():
    """What a window on a child must find: exactly so many blocks of one size."""
    for _ in range(40):
        bytearray(61_111)


def main():
    library = ctypes.CDLL(sys.argv[1])
    library.vforks.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.forks_in_handler.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    lasting = None
    os.write(1, b"ready\n")
    commands = {
        "fork": fork,
        "fork_then_threads": fork_then_threads,
        "fork_in_threads": lambda: in_threads(fork),
        "double_fork": double_fork,
        "spawn": spawn,
        "subprocess": run_subprocess,
        "subprocess_in_threads": lambda: in_threads(run_subprocess, 2),
        "multiprocessing_fork": lambda: workers("fork"),
        "multiprocessing_forkserver": lambda: workers("forkserver"),
        "multiprocessing_spawn": lambda: workers("spawn"),
        "storm": storm,
    }
    for line in iter(sys.stdin.readline, ""):
        words = line.split()
        if words[0] in commands:
            commands[words[0]]()
        elif words[0] == "vforks":
            assert library.vforks(81_111, 50) == 0
            made()
        elif words[0] == "handler":
            pairs = ctypes.c_uint64()
            bad = library.forks_in_handler(91_111, int(words[1]), ctypes.byref(pairs))
            assert bad == 0, bad
            os.write(1, b"done %d\n" % pairs.value)
            continue
        elif words[0] == "lasting":
            lasting = Lasting()
            os.write(1, b"forked %d\n" % lasting.pid)
            continue
        elif words[0] in ("child", "childs_child"):
            os.write(lasting.writer, b"f" if words[0] == "childs_child" else b".")
            continue
        elif words[0] == "end":
            lasting.end()
        elif words[0] == "exec":
            executes(words[1])
        os.write(1, b"done %d\n" % MADE)


if __name__ == "__main__":
    main()
