"""A program that knows its own allocations: it makes them on command and writes down each one's size, call
stack and fate, so that a tracker can be held to it.

usage: allocations.py LOG      (CPython 3.8 to 3.13, standard library only)

It prints `ready`, then answers commands on stdin: `go` makes the allocations and answers `done`; `report`
writes LOG and answers `reported`; `exit` ends it. LOG has one line an allocation, tab-separated:

    kind  size  unique  alive  tid  allocators  scope  stack

`size` is what CPython asked the C library for; `unique` is 1 where no other allocation of the program has that
size; `tid` is the kernel's; `allocators` are the capture format's ids that may carry it, or `*`; `scope` is
`all`, or `walk` for stacks that a profile hook can't see. Frames are leaf first, separated by \\x1e, each
`function \\x1f file \\x1f line`.
"""
import _thread
import asyncio
import contextlib
import functools
import mmap
import os
import sys
import threading

from native_id import get_native_id

MALLOC, REALLOC, CALLOC, MMAP = 6, 7, 8, 14
LOG = []
KEEP = []
EMPTY_LIST_BYTES = sys.getsizeof([])
# Everything up to this many bytes comes out of pymalloc's arenas.
SMALL_BYTES_MAX = 512

_size = 20011


def S():
    """The next size, used nowhere else."""
    global _size
    _size += 37
    return _size


def stack_of(frame, leaf_line=None):
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append((code.co_name, code.co_filename, frame.f_lineno))
        frame = frame.f_back
    if leaf_line is not None:
        stack[0] = (stack[0][0], stack[0][1], leaf_line)
    return stack


def bytes_asked(obj):
    """What the object's own storage took, as CPython asked for it."""
    if isinstance(obj, bytearray):
        return obj.__alloc__()
    if isinstance(obj, list):
        return sys.getsizeof(obj) - EMPTY_LIST_BYTES
    if isinstance(obj, mmap.mmap):
        return len(obj)
    return sys.getsizeof(obj)


def allocators_of(obj):
    if isinstance(obj, mmap.mmap):
        return (MMAP,)
    if isinstance(obj, bytes):
        return (CALLOC,)
    return (MALLOC, CALLOC, REALLOC)


def enter(kind, size, unique, alive, allocators, scope, stack):
    row = [kind, size, unique, alive, get_native_id(), allocators, scope, stack]
    LOG.append(row)
    return row


def note(obj, keep=True, line=None, scope="all"):
    """Writes down an object that the caller made on the line it calls from, and keeps it unless told not to."""
    stack = stack_of(sys._getframe(1), line)
    enter(type(obj).__name__, bytes_asked(obj), 1, int(keep), allocators_of(obj), scope, stack)
    if keep:
        KEEP.append(obj)


# --- kinds of object

def kinds():
    note(bytes(S()))
    note(bytearray(S()))
    note("x" * S())
    note([None] * S())
    note(mmap.mmap(-1, S()))


def freed():
    note(bytes(S()), keep=False)
    note(bytearray(S()), keep=False)
    note("y" * S(), keep=False)
    note([0] * S(), keep=False)
    note(mmap.mmap(-1, S()), keep=False)
    for _ in range(20):
        note(bytes(S()), keep=False)


# --- objects that grow: each step is a realloc that ends the block before it

def list_growth():
    items = []
    seen = 0
    row = None
    for i in range(3000):
        line = sys._getframe().f_lineno + 1
        items.append(i)
        now = sys.getsizeof(items) - EMPTY_LIST_BYTES
        if now != seen:
            seen = now
            if row is not None:
                row[3] = 0
            if now > SMALL_BYTES_MAX:
                row = enter("growth", now, 0, 1, (MALLOC, REALLOC), "all", stack_of(sys._getframe(), line))
    KEEP.append(items)


def bytearray_growth():
    buffer = bytearray()
    seen = 0
    row = None
    for _ in range(300):
        line = sys._getframe().f_lineno + 1
        buffer.extend(b"0123456789abcdef0123456789")
        if buffer.__alloc__() != seen:
            seen = buffer.__alloc__()
            if row is not None:
                row[3] = 0
            if seen > SMALL_BYTES_MAX:
                row = enter("growth", seen, 0, 1, (MALLOC, REALLOC), "all", stack_of(sys._getframe(), line))
    del buffer
    row[3] = 0


# --- shapes of the stack

def outer():
    middle()
    note(bytes(S()))


def middle():
    inner()
    note(bytes(S()))
    inner()


def inner():
    note(bytes(S()))


def recurse(depth):
    if depth == 0:
        note(bytes(S()))
        return
    recurse(depth - 1)
    if depth in (7, 150):
        note(bytes(S()))


def even(depth):
    if depth == 0:
        note(bytearray(S()))
    else:
        odd(depth - 1)


def odd(depth):
    even(depth - 1)


def producer(count):
    for _ in range(count):
        note(bytes(S()))
        yield
        note(bytearray(S()))


def delegating():
    yield from producer(2)
    note(bytes(S()))
    yield


def generators():
    for _ in producer(2):
        note(bytes(S()))
    for _ in delegating():
        pass
    abandoned = producer(1)
    next(abandoned)
    abandoned.close()
    with contextlib.closing(delegating()) as held:
        next(held)
        elsewhere(held)


def elsewhere(generator):
    next(generator)


def comprehensions():
    [note(bytes(S())) for _ in range(3)]
    {i: note(bytes(S())) for i in range(2)}
    {note(bytes(S())) for _ in range(2)}
    list(note(bytes(S())) for _ in range(2))
    [[note(bytes(S())) for _ in range(2)] for _ in range(2)]


class Meta(type):
    def __call__(cls, *args):
        note(bytes(S()))
        return super().__call__(*args)


class Shape(metaclass=Meta):
    def __init__(self):
        note(bytes(S()))

    @classmethod
    def made(cls):
        note(bytes(S()))
        return cls()

    @staticmethod
    def helped():
        note(bytes(S()))

    @property
    def computed(self):
        note(bytes(S()))

    def __getitem__(self, key):
        note(bytes(S()))
        return key

    def __enter__(self):
        note(bytes(S()))
        return self

    def __exit__(self, *exc):
        note(bytes(S()))
        return True

    def method(self):
        note(bytes(S()))

        def closure():
            note(bytes(S()))
        closure()


def classes():
    shape = Shape.made()
    shape.method()
    shape.helped()
    shape.computed
    shape[0]
    with shape:
        note(bytes(S()))
        raise ValueError

    class Local:
        note(bytes(S()))


def callbacks():
    sorted([3, 1, 2], key=lambda x: note(bytes(S())) or x)
    list(map(lambda x: note(bytes(S())), range(2)))
    functools.reduce(lambda a, b: note(bytes(S())), range(3))
    max([1, 2], key=keyed)


def keyed(value):
    note(bytes(S()))
    return value


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        note(bytes(S()))
        return function(*args)
    return wrapper


@wrapped
def decorated():
    note(bytes(S()))


def exceptions():
    try:
        note(bytes(S()))
        raise KeyError("x")
    except KeyError:
        note(bytes(S()))
    finally:
        note(bytes(S()))
    for _ in range(2):
        note(bytes(S()))
        if _ == 0:
            continue
        note(bytes(S()))


def several_lines():
    first = sys._getframe().f_lineno
    note(
        bytes(
            S()
        ),
        # Of the call's last argument, up to 3.7.
        line=first + (2 if sys.version_info >= (3, 8) else 3),
    )
    value = [
        1,
        note(bytes(S())),
        2,
        note(bytes(S())),
    ]
    return value


def größe_ändern():
    note(bytes(S()))


def profiled():
    """A profile function of the program's own, which a tracker may neither need nor disturb."""
    sys.setprofile(lambda *args: None)
    note(bytes(S()), scope="walk")
    inner_profiled()
    sys.setprofile(None)


def inner_profiled():
    note(bytes(S()), scope="walk")


# --- coroutines

async def leaf_task(i):
    note(bytes(S()))
    await asyncio.sleep(0)
    note(bytes(S()))
    return i


async def node_task(depth):
    if depth == 0:
        return await leaf_task(depth)
    note(bytes(S()))
    return sum(await asyncio.gather(node_task(depth - 1), node_task(depth - 1)))


async def ticks():
    for _ in range(2):
        note(bytes(S()))
        yield await leaf_task(1)


async def async_main():
    await node_task(2)
    async for _ in ticks():
        note(bytes(S()))
    await asyncio.gather(leaf_task(1), leaf_task(2))


# --- threads

def in_thread(scope="all"):
    note(bytes(S()), scope=scope)
    deeper_in_thread(3, scope)
    note(bytes(S()), keep=False, scope=scope)


def deeper_in_thread(depth, scope):
    if depth:
        deeper_in_thread(depth - 1, scope)
    note(bytearray(S()), scope=scope)


def threads():
    workers = [threading.Thread(target=in_thread) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for _ in range(3):
        finished = _thread.allocate_lock()
        finished.acquire()

        def body():
            # No profile hook reaches threads that were not started by `threading`.
            in_thread("walk")
            finished.release()
        _thread.start_new_thread(body, ())
        finished.acquire()


def waiting(lock, back):
    """Lives since before the tracker came, several frames deep."""
    waiting_deeper(lock, back)


def waiting_deeper(lock, back):
    lock.acquire()
    note(bytes(S()), scope="walk")
    inner_of_waiting()
    back.release()


def inner_of_waiting():
    note(bytes(S()))


# --- code that comes from strings: file names of its own, far lines, long tables

def run_source(name, source):
    exec(compile(source, name, "exec"), {"note": note, "S": S, "__name__": "generated"})


def generated():
    run_source("/srv/app/einfach.py", "note(bytes(S()))\n\ndef f():\n    note(bytes(S()))\nf()\n")
    run_source("/srv/größe/файл.py", "def зробити():\n    note(bytes(S()))\nзробити()\n")
    run_source("<string>", "note(bytes(S()))")
    # Lines far apart: deltas around every limit of the line tables.
    for gap in (1, 63, 64, 126, 127, 128, 129, 200, 254, 255, 256, 300, 1000, 40000):
        body = "def far(x):\n    note(bytes(S()))\n" + "\n" * gap + "    note(bytes(S()))\n    if x:\n" + "\n" * gap
        body += "        note(bytes(S()))\nfar(1)\n"
        run_source("/srv/app/far%d.py" % gap, body)
    # Backwards: an argument on a later line than the call that follows it.
    run_source("/srv/app/back.py", "def f(*a): note(bytes(S()))\n\ndef g(x):\n    f(x,\n" + "\n" * 150
               + "      note(bytes(S())),\n" + "\n" * 150 + "      x)\n    note(bytes(S()))\ng(1)\n")
    # Much code on one line: steps of the byte offset around 127, 128, 254 and 255 units.
    for terms in (20, 30, 31, 32, 33, 60, 62, 63, 64, 65, 66, 100, 127, 128, 129, 300, 20000):
        body = "def long(x):\n    y = " + "; y = ".join(["x"] * terms) + "; note(bytes(S()))\n    note(bytes(S()))\n"
        body += "    y = " + "; z = ".join(["x"] * terms) + "\n    note(bytes(S()))\nlong(1)\n"
        run_source("/srv/app/long%d.py" % terms, body)
    # Thousands of lines: every allocation behind EXTENDED_ARG jumps and far into the line table.
    lines = ["def huge(x):"]
    for i in range(6000):
        lines.append("    if x == %d: x += 0" % (i + 10))
        if i % 1500 == 0:
            lines.append("    for _ in range(1): note(bytes(S()))")
    lines.append("    note(bytes(S()))")
    lines.append("huge(1)")
    run_source("/srv/app/huge.py", "\n".join(lines))
    # The same names and first lines in other code objects: ids must not be mixed up, though addresses may be.
    for i in range(30):
        run_source("/srv/app/same%d.py" % (i % 3), "def same():\n" + "    pass\n" * i + "    note(bytes(S()))\nsame()\n")


def go(lock, back):
    kinds()
    freed()
    list_growth()
    bytearray_growth()
    outer()
    for depth in (1, 2, 3, 40, 300):
        recurse(depth)
    even(20)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10000)
    recurse(2500)
    sys.setrecursionlimit(limit)
    generators()
    comprehensions()
    classes()
    callbacks()
    decorated()
    exceptions()
    several_lines()
    größe_ändern()
    asyncio.run(async_main())
    threads()
    generated()
    thread = threading.Thread(target=profiled)
    thread.start()
    thread.join()
    lock.release()
    back.acquire()
    recurse(40)
    kinds()


def report(path):
    with open(path, "w", encoding="utf-8") as out:
        out.write("command_line\t%s\n" % " ".join(sys.argv))
        out.write("hexversion\t%08x\n" % sys.hexversion)
        out.write("libdest\t%s\n" % os.path.abspath(os.path.dirname(os.__file__)))
        for entry in sys.path:
            if entry:
                out.write("sys_path\t%s\n" % entry)
        for kind, size, unique, alive, tid, allocators, scope, stack in LOG:
            frames = "\x1e".join("%s\x1f%s\x1f%d" % frame for frame in stack)
            ids = ",".join(map(str, allocators))
            out.write("\t".join(["alloc", kind, str(size), str(unique), str(alive), str(tid), ids, scope, frames]) + "\n")


def main():
    lock, back = _thread.allocate_lock(), _thread.allocate_lock()
    lock.acquire()
    back.acquire()
    threading.Thread(target=waiting, args=(lock, back), daemon=True).start()
    os.write(1, b"ready\n")
    while True:
        command = os.read(0, 100).strip()
        if command == b"go":
            go(lock, back)
            os.write(1, b"done\n")
        elif command == b"report":
            report(sys.argv[1])
            os.write(1, b"reported\n")
        else:
            break


if __name__ == "__main__":
    main()
