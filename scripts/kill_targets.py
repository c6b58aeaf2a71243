"""Programs for scripts/kill_points to attach to, forked from one interpreter so that a fresh one costs milliseconds.

usage: kill_targets.py KIND DIRECTORY

Standard input is a Unix socket. `t` with a descriptor asks for a target, which speaks over that descriptor: it
answers each byte with `done`, or with what is wrong. `w` asks how the last target ended. DIRECTORY gets a library.
"""
import array
import ctypes
import os
import select
import socket
import subprocess
import sys
import threading
import time

KIND, DIRECTORY = sys.argv[1:3]

# Holds a pattern in every register while it counts down, or, told to count from 0, while it sleeps.
HOLD = r"""
#include <string.h>
#include <time.h>
#ifdef __AVX__
#define LOAD(n) "vmovdqu 32*" #n "(%rsi), %ymm" #n "\n"
#define STORE(n) "vmovdqu %ymm" #n ", 32*" #n "(%rdx)\n"
#else
#define LOAD(n) "movdqu 32*" #n "(%rsi), %xmm" #n "\nmovdqu 32*" #n "+16(%rsi), %xmm" #n "\n"
#define STORE(n) "movdqu %xmm" #n ", 32*" #n "+16(%rdx)\n"
#endif
#define ALL(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define SAME(register, value) "cmp $" #value ", " register "\n jne 9f\n"
long hold_once(long spins, const void *in, void *out, const struct timespec *pause);
__asm__(".text\n.globl hold_once\nhold_once:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdx\n"
    ALL(LOAD)
    "mov $0x5a5a0001, %rbx\n mov $0x5a5a0002, %rbp\n mov $0x5a5a0003, %r12\n mov $0x5a5a0004, %r13\n"
    "mov $0x5a5a0005, %r14\n mov $0x5a5a0006, %r15\n mov $0x5a5a0007, %r8\n mov $0x5a5a0008, %r9\n"
    "mov $0x5a5a0009, %r10\n mov $0x5a5a000a, %rdx\n"
    /* The red zone. */
    "movq $0x5a5a000b, -8(%rsp)\n movq $0x5a5a000c, -120(%rsp)\n"
    "test %rdi, %rdi\n jz 2f\n"
    "1: dec %rdi\n jnz 1b\n jmp 3f\n"
    "2: mov $35, %eax\n mov %rcx, %rdi\n xor %esi, %esi\n syscall\n test %rax, %rax\n jnz 9f\n"
    "3:" SAME("%rbx", 0x5a5a0001) SAME("%rbp", 0x5a5a0002) SAME("%r12", 0x5a5a0003) SAME("%r13", 0x5a5a0004)
    SAME("%r14", 0x5a5a0005) SAME("%r15", 0x5a5a0006) SAME("%r8", 0x5a5a0007) SAME("%r9", 0x5a5a0008)
    SAME("%r10", 0x5a5a0009) SAME("%rdx", 0x5a5a000a)
    "cmpq $0x5a5a000b, -8(%rsp)\n jne 9f\n cmpq $0x5a5a000c, -120(%rsp)\n jne 9f\n"
    "xor %eax, %eax\n jmp 8f\n"
    "9: mov $1, %eax\n"
    "8: pop %rdx\n"
    ALL(STORE)
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
long hold(long rounds) {
    unsigned long in[16][4], out[16][4];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) in[i][j] = 0xabcdef0100000000UL + 4 * i + j;
    struct timespec pause = {0, 300000};
    long wrong = 0;
    for (long i = 0; i < rounds; i++) {
        memcpy(out, in, sizeof in);
        long bad = hold_once(i % 2 ? 200000 : 0, in, out, &pause);
#ifndef __AVX__
        for (int j = 0; j < 16; j++) out[j][0] = in[j][0], out[j][1] = in[j][1];
#endif
        wrong += bad || memcmp(in, out, sizeof in);
    }
    return wrong;
}
"""

if KIND == "registers":
    with open(DIRECTORY + "/hold.c", "w") as source:
        source.write(HOLD)
    with open("/proc/cpuinfo") as cpu:
        vectors = ["-mavx"] if " avx " in cpu.read() else []
    subprocess.run(
        ["cc", "-O1", "-w", "-shared", "-fPIC", *vectors, "-o", DIRECTORY + "/hold.so", DIRECTORY + "/hold.c"],
        check=True,
    )
    library = ctypes.CDLL(DIRECTORY + "/hold.so")
if KIND == "service":
    import asyncio
    import decimal  # noqa: F401

    for name in "ssl sqlite3 lzma bz2 zlib json xml.dom.minidom multiprocessing email.mime.text ctypes.util".split():
        try:
            __import__(name)
        except ImportError:
            pass


def work():
    """Allocates in all sizes; says what is wrong."""
    kept = [bytearray(20000 + i) for i in range(20)] + [bytearray(300000)]
    if any(any(block[::997]) for block in kept):
        return b"corrupt\n"
    return b"done\n"


def serve(channel, check=lambda: None):
    while True:
        if not channel.recv(1):
            os._exit(0)
        channel.sendall(check() or work())


def idle(channel):
    """The main thread sleeps, another waits for bytes."""
    early = []
    threading.Thread(target=serve, args=(channel, lambda: early and b"early\n"), daemon=True).start()
    time.sleep(3600)
    early.append(True)
    time.sleep(3600)


def epoll(channel):
    """One thread in epoll_wait with a time-out; none may be cut short."""
    poll = select.epoll()
    poll.register(channel.fileno(), select.EPOLLIN)
    said = b""
    while True:
        began = time.monotonic()
        ready = poll.poll(0.25)
        if not ready and time.monotonic() - began < 0.2495:
            said = b"early\n"
        elif not ready and time.monotonic() - began > 3:
            said = b"late\n"
        if ready:
            if not channel.recv(1):
                os._exit(0)
            channel.sendall(said or work())


def storm(channel):
    """Four threads that allocate, free and check."""
    wrong = []

    def busy():
        while not wrong:
            blocks = [bytes([i]) * (700 + 13 * i) for i in range(40)]
            if any(block.count(i) != len(block) for i, block in enumerate(blocks)):
                wrong.append(b"corrupt\n")

    sys.setswitchinterval(0.0005)
    for _ in range(4):
        threading.Thread(target=busy, daemon=True).start()
    serve(channel, lambda: wrong and wrong[0])


def registers(channel):
    """One thread, mostly in code that compares all registers with what it put there."""
    channel.setblocking(False)
    wrong = 0
    while True:
        wrong += library.hold(8)
        try:
            if not channel.recv(1):
                os._exit(0)
        except BlockingIOError:
            continue
        channel.setblocking(True)
        channel.sendall(b"%d times a register changed\n" % wrong if wrong else work())
        channel.setblocking(False)


def service(channel):
    """An event loop with many modules that runs a task every millisecond and forks now and then."""

    async def main():
        loop = asyncio.get_running_loop()
        said = []

        def answer():
            if not channel.recv(1):
                os._exit(0)
            channel.sendall(said[0] if said else work())

        loop.add_reader(channel.fileno(), answer)
        ticks = 0
        while True:
            began = loop.time()
            await asyncio.sleep(0.001)
            if loop.time() - began < 0.0009:
                said.append(b"early\n")
            ticks += 1
            if ticks % 20 == 0:
                child = os.fork()
                if child == 0:
                    os._exit(7 if work() == b"done\n" else 1)
                if os.waitpid(child, 0)[1] != 7 << 8:
                    said.append(b"a forked child failed\n")

    asyncio.run(main())


def zygote():
    control = socket.socket(fileno=os.dup(0))
    last = 0
    while True:
        numbers = array.array("i")
        message, ancillary, _, _ = control.recvmsg(1, socket.CMSG_LEN(numbers.itemsize))
        if not message:
            return
        if message == b"w":
            control.sendall(b"%d\n" % os.waitpid(last, 0)[1])
            continue
        numbers.frombytes(ancillary[0][2])
        last = os.fork()
        if last == 0:
            control.close()
            os.dup2(os.open("/dev/null", os.O_RDWR), 0)
            channel = socket.socket(fileno=numbers[0])
            channel.sendall(b"ready\n")
            try:
                globals()[KIND](channel)
            finally:
                os._exit(9)
        os.close(numbers[0])
        control.sendall(b"%d\n" % last)


zygote()
