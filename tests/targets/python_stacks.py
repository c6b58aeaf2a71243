"""Allocates on stacks of the rarer kinds, and writes down each of them.

usage: python_stacks.py LOG [remembered | greenlet | gevent | coverage | cython]

Prints `ready`, then: `go` makes the allocations and answers `done`; `report` writes LOG and answers `done`, or says
`failed` and why if a profile or trace function of the program's own has not seen what it should have. LOG,
tab-separated:

    python  size  tid  stack  category      a bytearray of this size, used nowhere else

A stack is leaf first, frames separated by \\x1e, each `function \\x1f file \\x1f line`; `*` is any line.
"""
import cProfile
import functools
import os
import sys
import threading

from native_id import get_native_id

KEEP = []
LOG = []
# Emptied when the window is over.
OPEN = [True]
_size = 900001


def next_size():
    global _size
    _size += 16
    return _size


def stack_of(frame):
    frames = []
    while frame is not None:
        line = "*" if frame.f_code.co_name == "without_lines" else frame.f_lineno
        frames.append("%s\x1f%s\x1f%s" % (frame.f_code.co_name, frame.f_code.co_filename, line))
        frame = frame.f_back
    return "\x1e".join(frames)


def note(made, category):
    """Writes down what the caller has made on the line that it calls from."""
    KEEP.append(made)
    if OPEN:
        LOG.append(("python", made.__alloc__(), get_native_id(), stack_of(sys._getframe(1)), category))


# --- names

def names():
    for characters in ("n", "é", "名"):
        for length in (300, 2000):
            name, directory = characters * length, characters * 200
            source = "def %s():\n    note(bytearray(size()), 'long names')\n%s()\n" % (name, name)
            exec(compile(source, "/srv/%s/app.py" % directory, "exec"), {"note": note, "size": next_size})


# --- code without a line table

def without_lines():
    note(bytearray(next_size()), "without a line table")


def lineless():
    if sys.version_info < (3, 8):
        return
    code = without_lines.__code__
    table = {"co_lnotab": b""} if sys.version_info < (3, 10) else {"co_linetable": b""}
    function = type(without_lines)(code.replace(**table), globals())
    function()


# --- functions of the program's own on every call, from before the window until after it

def called(depth):
    note(bytearray(next_size()), "under cProfile, profile and trace functions")
    if depth:
        called(depth - 1)


class Watched:
    """A thread with a profile or a trace function."""

    def __init__(self, install):
        self.install, self.events = install, 0
        self.ready, self.begin, self.done = threading.Event(), threading.Event(), threading.Event()
        self.end = threading.Event()
        self.failed = None
        self.thread = threading.Thread(target=self.body, daemon=True)
        self.thread.start()
        self.ready.wait()

    def on_event(self, frame, event, argument):
        if frame.f_code is called.__code__ and event == "call":
            self.events += 1
        return None

    def body(self):
        function = self.on_event
        getattr(sys, "set" + self.install)(function)
        self.ready.set()
        self.begin.wait()
        called(3)
        self.done.set()
        self.end.wait()
        called(0)
        if getattr(sys, "get" + self.install)() != function:
            self.failed = "its %s function is gone" % self.install
        getattr(sys, "set" + self.install)(None)
        if self.events != 5:
            self.failed = "its %s function saw %d of 5 calls" % (self.install, self.events)


def profiled():
    called(2)


# --- C between Python's frames

def through_c():
    sorted([2, 1], key=keyed)
    max([1], key=lambda x: sorted([x], key=keyed))
    try:
        import ctypes
    except ImportError:
        return
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(compared)
    ctypes.CDLL(None).qsort(ctypes.create_string_buffer(2), 2, 1, compare)


def keyed(value):
    note(bytearray(next_size()), "C between Python's frames")
    return value


def compared(left, right):
    note(bytearray(next_size()), "C between Python's frames")
    return 0


# --- other interpreters

SUB = """
def deep(depth):
    if depth:
        return deep(depth - 1)
    import sys
    sys.path.insert(0, %(targets)r)
    from native_id import get_native_id
    made = bytearray(%(size)d)
    frame, frames = sys._getframe(), []
    while frame is not None:
        line = frame.f_lineno - (3 if not frames else 0)
        frames.append("%%s\\x1f%%s\\x1f%%d" %% (frame.f_code.co_name, frame.f_code.co_filename, line))
        frame = frame.f_back
    row = ("python", str(made.__alloc__()), str(get_native_id()), "\\x1e".join(frames), "%(category)s")
    sys.kept = made
    with open(%(path)r, "a") as out:
        out.write("\\t".join(row) + "\\n")
deep(3)
"""


def run_in(module, interpreter, path, category):
    size = next_size()
    # Up to 3.11 a thread that enters another interpreter is seen where it left its first one. 3.12 lends every thread the
    # state of the one that made the interpreter (gh-109860), whose frames nobody else may walk: no stack.
    is_lent = sys.version_info[:2] == (3, 12) and threading.current_thread() is not threading.main_thread()
    is_own = sys.version_info >= (3, 12) and not is_lent
    targets = os.path.dirname(os.path.abspath(__file__))
    code = SUB % {"size": size, "path": path if is_own else os.devnull, "category": category, "targets": targets}
    stack = stack_of(sys._getframe()).split("\x1e")
    stack[0] = stack[0].rsplit("\x1f", 1)[0] + "\x1f%d" % (sys._getframe().f_lineno + 1)
    module.run_string(interpreter, code)
    if not is_own:
        stack = "" if is_lent else "\x1e".join(stack)
        LOG.append(("python", size + 1, get_native_id(), stack, category))


def interpreters(path):
    if sys.version_info < (3, 8):
        return
    try:
        import _interpreters as module
    except ImportError:
        import _xxsubinterpreters as module
    made = [module.create()]
    if sys.version_info >= (3, 13):
        made.append(module.create("legacy"))
    elif sys.version_info >= (3, 12):
        made.append(module.create(isolated=False))
    for interpreter in made:
        run_in(module, interpreter, path, "in other interpreters")
        thread = threading.Thread(target=run_in, args=(module, interpreter, path, "in other interpreters"))
        thread.start()
        thread.join()
    for interpreter in made:
        module.destroy(interpreter)


# --- deep stacks, again and again: frames, code objects and instructions that lie where others lay before

def made_here(category):
    """Enough events on one stack to know it by heart, then one that counts."""
    for _ in range(6):
        bytearray(5000)
    # The frame of this function is part of each stack.
    note(bytearray(next_size()), category)


def deep(depth, then):
    if depth:
        return deep(depth - 1, then)
    return then()


def another(depth, then):
    if depth:
        return deep(depth - 1, then)
    return then()


def from_two_lines(which, then):
    if which:
        return deep(40, then)
    return deep(40, then)


def entered(function, then):
    return function(then)


def branches(depth, random, then):
    if not depth:
        then()
    elif random.random() < 0.5:
        branches(depth - 1, random, then)
    else:
        branches(depth - 1, random, then)
    if random.random() < 0.05:
        then()


def raises(depth):
    if depth:
        raises(depth - 1)
    made_here("before an exception")
    raise KeyError


def catches(depth):
    if depth:
        return catches(depth - 1)
    try:
        raises(30)
    except KeyError:
        made_here("after an exception")


def generate(inner):
    for _ in range(10):
        made_here("in a generator")
        yield from inner() if inner else (1,)


class Suspended:
    def __await__(self):
        yield


async def awaits(depth):
    if depth:
        return await awaits(depth - 1)
    for _ in range(4):
        made_here("in a coroutine")
        await Suspended()


def remembered():
    global _size
    import random

    _size = 200001
    leaf = functools.partial(made_here, "the same frames for another caller")
    for caller in (deep, another, deep, another):
        caller(40, leaf)
    for which in (0, 1, 0, 1):
        from_two_lines(which, leaf)
    # The same line enters Python by a call and by C.
    one = functools.partial(deep, 40)
    for function in (one, lambda then: deep(39, then), one, functools.partial(one)):
        entered(function, functools.partial(made_here, "entered by C or by a call"))
    branches(50, random.Random(7), functools.partial(made_here, "two branches"))
    for seed in range(6):
        branches(50, random.Random(seed), functools.partial(made_here, "two branches"))
    catches(20)
    made_here("after an exception")
    # Resumed at several depths, and from one that has been left since.
    generator = generate(lambda: generate(None))
    for depth in (30, 31, 3, 30, 60, 0, 30):
        deep(depth, lambda: next(generator))
    coroutines = [awaits(25), awaits(26)]
    for depth in (10, 30, 10):
        for coroutine in coroutines:
            deep(depth, lambda: coroutine.send(None))
    for coroutine in coroutines:
        coroutine.close()
    # Code objects that are freed and made again, with other names, in the same place.
    for number in range(8):
        source = "def f%d(depth):\n%s    f%d(depth - 1) if depth else leaf('code that is made anew')\n" % (
            number, "\n" * (number // 2), number)
        space = {"leaf": made_here}
        exec(compile(source, "/srv/made%d.py" % (number % 3), "exec"), space)
        space["f%d" % number](40)
        space.clear()


def remembered_elsewhere():
    for depth in (200, 900, 200, 3):
        deep(depth, functools.partial(made_here, "deeper than deep"))


# --- greenlets

def greenlets():
    import greenlet

    def ping(depth):
        if depth:
            return ping(depth - 1)
        for _ in range(5):
            note(bytearray(next_size()), "greenlets")
            other.switch()
        note(bytearray(next_size()), "greenlets")

    def pong():
        while True:
            note(bytearray(next_size()), "greenlets")
            deeper_pong()

    def deeper_pong():
        first.switch()
        note(bytearray(next_size()), "greenlets")

    first, other = greenlet.greenlet(ping), greenlet.greenlet(pong)
    first.switch(40)
    assert first.dead
    note(bytearray(next_size()), "greenlets")
    other.throw()


# --- gevent's greenlets, and its pool of threads

def gevents():
    import gevent

    def work(depth, times):
        if depth:
            return work(depth - 1, times)
        for _ in range(times):
            note(bytearray(next_size()), "gevent")
            gevent.sleep(0)
            note(bytearray(next_size()), "gevent")

    jobs = [gevent.spawn(work, depth, 3) for depth in range(5)]
    gevent.joinall(jobs)
    gevent.get_hub().threadpool.apply(work_in_pool)
    note(bytearray(next_size()), "gevent")


def work_in_pool():
    note(bytearray(next_size()), "gevent")


# --- under coverage, which counts the lines that run

def covered(argument):
    lines = [sys._getframe().f_lineno]
    if argument:
        lines.append(sys._getframe().f_lineno)
        note(bytearray(next_size()), "under coverage")
    else:
        lines.append(sys._getframe().f_lineno)
    return lines


class Covered:
    """From before the window until after it."""

    def __init__(self):
        import coverage
        self.coverage, self.lines = coverage.Coverage(data_file=None), []
        self.coverage.start()

    def go(self):
        self.lines += covered(True)
        thread = threading.Thread(target=lambda: self.lines.extend(covered(True)))
        thread.start()
        thread.join()

    def report(self):
        self.lines += covered(False)
        self.coverage.stop()
        seen = set(self.coverage.get_data().lines(__file__) or [])
        return None if seen.issuperset(self.lines) else "coverage saw %s of %s" % (sorted(seen), self.lines)


# --- Cython's functions between Python's

def cythons():
    import between

    def called():
        note(bytearray(next_size()), "Cython between Python's frames")

    between.through(called)
    between.Through(called).again(3)
    # One that Cython's code makes: of the line that calls it.
    note(between.make(next_size()), "by Cython")
    note(list(between.generate(next_size(), 3))[-1], "by Cython")


def main(log, kind=None):
    profiler = cProfile.Profile()
    watched = []
    coverage = Covered() if kind == "coverage" else None
    if kind == "gevent":
        import gevent  # noqa: F401
    elif kind == "cython":
        import between  # noqa: F401
    if kind is None:
        watched = [Watched("profile"), Watched("trace")]
        profiler.enable()
    os.write(1, b"ready\n")
    while True:
        command = os.read(0, 100).strip()
        if command == b"go" and kind == "greenlet":
            greenlets()
            thread = threading.Thread(target=greenlets)
            thread.start()
            thread.join()
        elif command == b"go" and kind == "remembered":
            remembered()
            thread = threading.Thread(target=remembered_elsewhere)
            thread.start()
            thread.join()
        elif command == b"go" and kind is not None:
            {"gevent": gevents, "coverage": coverage and coverage.go, "cython": cythons}[kind]()
        elif command == b"go":
            profiled()
            for one in watched:
                one.begin.set()
                one.done.wait()
            names()
            lineless()
            through_c()
            profiler.disable()
            interpreters(log + ".others")
        elif command == b"report":
            failed = []
            OPEN.clear()
            if coverage:
                failed.append(coverage.report())
            for one in watched:
                one.end.set()
                one.thread.join()
                failed.append(one.failed)
            if watched:
                calls = {entry.code: entry.callcount for entry in profiler.getstats()}
                # Three of its own thread; from 3.12 on also eight of all others.
                if calls.get(called.__code__) not in (3, 11):
                    failed.append("cProfile saw %r" % calls.get(called.__code__))
            others = open(log + ".others").read() if os.path.exists(log + ".others") else ""
            with open(log, "w", encoding="utf-8") as out:
                for row in LOG:
                    out.write("\t".join(map(str, row)) + "\n")
                out.write(others)
            if any(failed):
                os.write(1, ("failed %s\n" % failed).encode())
        else:
            break
        os.write(1, b"done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
