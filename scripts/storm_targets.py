"""The programs that scripts/storm lets memray loose on: each does risky things without a pause and checks the results.

A target's functions run in threads of their own until a byte comes on its input; then it says `ok COUNT`. What is
wrong it says as `bad …` and exits with 9. While the second word of its progress file is 1 all of them rest.
"""

PRELUDE = r"""
import ctypes, gc, mmap, os, random, select, signal, struct, subprocess, sys, threading, time, zlib, asyncio, _ctypes
STOP = threading.Event()
PROGRESS, LIBRARY, COPY = sys.argv[1:4]
with open(PROGRESS, "r+b") as file:
    COUNTER = mmap.mmap(file.fileno(), 24)
count = resting = 0
NATIVE = ctypes.CDLL(LIBRARY)
def tick():
    global count
    count += 1
    COUNTER[:8] = struct.pack("<Q", count)
def check(condition, *said):
    if not condition:
        os.write(1, ("bad %r\n" % (said,)).encode())
        os._exit(9)
def stopper():
    os.read(0, 1)
    STOP.set()
LOCK = threading.Lock()
def rest(change):
    global resting
    with LOCK:
        resting += change
        COUNTER[16:24] = struct.pack("<Q", resting)
def main(*functions):
    def run(function):
        try:
            while not STOP.is_set():
                if COUNTER[8]:
                    rest(1)
                    while COUNTER[8] and not STOP.is_set(): time.sleep(0.005)
                    rest(-1)
                function()
                tick()
        except BaseException as error:
            check(False, function.__name__, repr(error))
    threading.Thread(target=stopper, daemon=True).start()
    os.write(1, b"ready %d\n" % len(functions))
    threads = [threading.Thread(target=run, args=(function,)) for function in functions[1:]]
    for thread in threads: thread.start()
    run(functions[0])
    for thread in threads: thread.join()
    os.write(1, b"ok %d\n" % count)
def churn(n=60):
    kept = []
    for i in range(n):
        size = random.randrange(600, 40000)
        kept.append((bytes([i % 256]) * size, size, i % 256))
    for block, size, value in kept:
        check(len(block) == size and block.count(value) == size, "churn", size)
def native_churn():
    check(NATIVE.churn(random.randrange(1 << 30), 100) == 0, "native churn")
def births():
    check(NATIVE.births(random.randrange(1 << 30), 12) == 0, "births")
def native_signals():
    check(NATIVE.signals(15) == 0, "signals")
def jumps():
    check(NATIVE.jumps(15) == 0, "jumps")
def threads():
    made = [threading.Thread(target=churn, args=(10,)) for _ in range(12)]
    for thread in made: thread.start()
    for thread in made: thread.join()
def dlopen():
    library = ctypes.CDLL(COPY)
    check(library.churn(random.randrange(1 << 30), 100) == 0, "dlopen")
    _ctypes.dlclose(library._handle)
def wait_for(pid):
    deadline = time.monotonic() + 60
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return status
        if time.monotonic() > deadline:
            check(False, "a forked child hangs", pid, [open("/proc/%d/%s" % (pid, n)).read() for n in ("wchan", "syscall")])
        time.sleep(0.001)
def fork():
    seed = random.randrange(1 << 30)
    def total(): return zlib.crc32(bytes([seed % 256]) * (1000 + seed % 90000)) % 250
    want = total()
    pid = os.fork()
    if pid == 0:
        try:
            for i in range(20): bytearray(5000 * i)
            if NATIVE.churn(seed, 50): os._exit(252)
            got = total()
            if seed % 3 == 0:
                thread = threading.Thread(target=churn); thread.start(); thread.join()
            if seed % 7 == 0:
                os._exit(got if wait_for(os.fork() or os._exit(0)) == 0 else 253)
            os._exit(got)
        finally:
            os._exit(251)
    status = wait_for(pid)
    check(status == want << 8, "fork", status, want << 8)
def spawn():
    text = str(random.random())
    for arguments in ({}, {"close_fds": False}, {"start_new_session": True}, {"preexec_fn": churn}):
        child = subprocess.Popen(["/bin/echo", text], stdout=subprocess.PIPE, **arguments)
        out = child.communicate(timeout=60)[0]
        check(out.decode() == text + "\n" and child.returncode == 0, "spawn", out, child.returncode)
class Node: pass
def garbage():
    nodes = [Node() for _ in range(300)]
    for i, node in enumerate(nodes):
        node.other, node.load, node.sum = nodes[i - 1], bytearray([i % 256]) * 900, i % 256 * 900
    for node in nodes: check(sum(node.load) == node.sum, "gc")
    del nodes, node
    gc.collect()
"""

TARGETS = {
    "fork": "main(fork, churn)",
    "spawn": "main(spawn, churn)",
    "threads": "main(threads, births)",
    "dlopen": "main(dlopen, churn, native_churn)",
    "native": "main(native_churn, native_churn, native_churn)",
    "gc": "main(garbage, garbage, churn)",
    "jumps": "main(jumps, churn)",
    "signals": r"""
taken = 0
def handler(*_):
    global taken
    taken += 1
    bytearray(random.randrange(1000, 9000))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def sleeps():
    before, at = taken, time.monotonic()
    time.sleep(0.02)
    spent = time.monotonic() - at
    check(0.0199 < spent < 20, "sleep", spent)
    check(taken > before, "no signals")
    churn(10)
main(sleeps, native_signals, churn)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
    "asyncio": r"""
async def one(seconds):
    at = time.monotonic()
    await asyncio.sleep(seconds)
    spent = time.monotonic() - at
    check(seconds - 0.002 <= spent < seconds + 20, "asyncio.sleep", seconds, spent)
    bytearray(random.randrange(1000, 90000))
def loop():
    async def all(): await asyncio.gather(*[one(random.random() / 20) for _ in range(20)])
    asyncio.run(all())
main(loop)
""",
    "recursion": r"""
sys.setrecursionlimit(20000)
threading.stack_size(256 << 20)
def deep(n):
    if n == 0:
        churn(20)
        return 0
    return 1 + deep(n - 1)
def recursion():
    check(deep(5000) == 5000, "depth")
def thread():
    other = threading.Thread(target=recursion); other.start(); other.join()
    churn(20)
main(thread)
""",
    "waits": r"""
import queue, socket
a, b = socket.socketpair()
a.settimeout(0.05)
poll = select.poll(); poll.register(a, select.POLLIN)
epoll = select.epoll(); epoll.register(a, select.EPOLLIN)
lock = threading.Lock(); lock.acquire()
event = threading.Event()
def timed(function, seconds, want):
    at = time.monotonic()
    got = function()
    spent = time.monotonic() - at
    check(got == want, function, got)
    check(seconds - 0.002 <= spent < seconds + 20, function, spent)
def receive():
    try: a.recv(1)
    except socket.timeout: return "timeout"
def waits():
    timed(receive, 0.05, "timeout")
    timed(lambda: poll.poll(30), 0.03, [])
    timed(lambda: select.select([a], [], [], 0.03), 0.03, ([], [], []))
def waits2():
    timed(lambda: lock.acquire(timeout=0.04), 0.04, False)
    timed(lambda: event.wait(0.03), 0.03, False)
    timed(lambda: epoll.poll(0.03), 0.03, [])
    timed(lambda: signal.sigtimedwait([signal.SIGUSR1], 0.03), 0.03, None)
def waits3():
    timed(lambda: time.sleep(0.05), 0.05, None)
    child = subprocess.Popen(["/bin/sleep", "0.03"]); check(child.wait() == 0, "wait")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
main(waits, waits2, waits3)
""",
    # Needs the greenlet package; scripts/storm makes a virtual environment with it.
    "greenlet": r"""
import greenlet
def turns(other, seed):
    value = seed
    for i in range(40):
        block = bytearray([value % 256]) * (700 + value % 5000)
        deep(value % 30)
        got = other[0].switch(value + 1) if other[0] else value
        check(block.count(value % 256) == 700 + value % 5000, "greenlet")
        value = (got or value) + 1
    return value
def deep(n):
    return bytearray(900) if n == 0 else deep(n - 1)
def switches():
    there, here = [None], [greenlet.getcurrent()]
    group = [greenlet.greenlet(lambda seed, i=i: turns(here, seed)) for i in range(8)]
    for round in range(30):
        for i, one in enumerate(group):
            if not one.dead: one.switch(round * 8 + i)
    for one in group:
        while not one.dead: one.switch(1)
main(switches, switches, churn)
""",
    # It replaces itself; what it counted goes on in the environment.
    "exec": r"""
count = int(os.environ.get("COUNT", "0"))
if count == 0: os.write(1, b"ready 0\n")
end = time.monotonic() + random.random() * 0.15
while time.monotonic() < end: churn(5)
tick()
if select.select([0], [], [], 0)[0]:
    os.write(1, b"ok %d\n" % count)
else:
    os.environ["COUNT"] = str(count)
    def leave(): os.execv(sys.executable, [sys.executable, __file__] + sys.argv[1:])
    if count % 2:
        threading.Thread(target=churn).start()
        thread = threading.Thread(target=leave); thread.start(); thread.join()
    leave()
""",
    # All of it in one process.
    "all": r"""
taken = 0
def handler(*_):
    global taken
    taken += 1
    bytearray(random.randrange(1000, 9000))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
main(fork, spawn, threads, births, dlopen, native_churn, garbage, native_signals, jumps, churn)
signal.setitimer(signal.ITIMER_REAL, 0)
""",
}

# Ends at any moment of its life while threads allocate; the status says that all was well until then.
EXITS = r"""
import random, sys, threading, time
def churn():
    while True:
        kept = [bytes([i]) * random.randrange(600, 40000) for i in range(20)]
        if any(block.count(i) != len(block) for i, block in enumerate(kept)):
            import os
            os._exit(9)
for _ in range(2):
    threading.Thread(target=churn, daemon=True).start()
time.sleep(float(sys.argv[1]))
sys.exit(7)
"""
