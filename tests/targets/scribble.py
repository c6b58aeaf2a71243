"""Finds the ring as soon as it is mapped and writes random words all over it, while it allocates; tries to cut the memory
off under the tool. At `end` it says how often it wrote, and how often it could cut.
"""
import ctypes
import os
import random
import struct
import sys
import threading

random = random.Random(int(sys.argv[1]))
wrote, cut, done = 0, 0, False


def regions():
    with open("/proc/self/maps", errors="replace") as file:
        for line in file:
            # A memfd, or shared memory without a name, which the kernel calls so.
            if "memfd:memray" in line or ("rw-s" in line and "/dev/zero" in line):
                start, end = (int(it, 16) for it in line.split()[0].split("-"))
                yield start, end, line.split()[0], "memfd" in line


def word():
    number = random.getrandbits(64)
    return random.choice((0, 1, number, number >> 40, 2**64 - 1, 1 << random.randrange(64), 0x7F0000000000 + number % 4096 * 16))


def scribble():
    global wrote, cut
    while not done:
        kept = [bytearray(2000) for _ in range(50)]
        del kept
        for start, end, name, is_memfd in regions():
            try:
                if not is_memfd:
                    raise OSError
                with open("/proc/self/map_files/" + name, "r+b") as file:
                    file.truncate(0)
                    cut += 1
            except OSError:
                pass
            for _ in range(200):
                at = start + random.randrange((end - start) // 8 - 4) * 8
                # Headers, tables and the ring's beginning, where the reader is, more often.
                if random.random() < 0.5:
                    at = start + random.randrange(64) * 8
                elif random.random() < 0.5:
                    at = start + 0x1000 * 289 + random.randrange(4096) * 8
                if at + 8 <= end:
                    lap = (random.randrange(4) << 20) + 1
                    value = word() if random.random() < 0.5 else lap << 32 | random.randrange(1 << 16) << 16 | random.randrange(17) << 8 | random.randrange(13)
                    try:
                        memory.seek(at)
                        memory.write(struct.pack("<Q", value))
                        wrote += 1
                    except OSError:
                        break


memory = open("/proc/self/mem", "r+b", buffering=0)
thread = threading.Thread(target=scribble)
thread.start()
os.write(1, b"ready\n")
os.read(0, 100)
done = True
thread.join()
os.write(1, b"scribbled %d %d\n" % (wrote, cut))
os.read(0, 100)
