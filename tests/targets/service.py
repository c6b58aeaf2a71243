"""A service that leaks: every millisecond `remember` keeps 3,000 bytes and `forget` drops as much.

Prints `ready`. Input, one word a line: `exit N` ends it with that status, `quiet` and `busy` stop and start the
allocations and are answered by `ok`.
"""
import os
import select
import sys

CACHE = []
CACHED_MAX = 100_000


def remember():
    if len(CACHE) < CACHED_MAX:
        CACHE.append(bytearray(3000))


def forget():
    return len(bytearray(3000))


def main():
    busy = True
    os.write(1, b"ready\n")
    while True:
        if select.select([0], [], [], 0.001 if busy else None)[0]:
            for line in os.read(0, 100).decode().splitlines() or ["exit 0"]:
                word, _, rest = line.partition(" ")
                if word == "exit":
                    sys.stdout.flush()
                    sys.exit(int(rest))
                busy = word == "busy"
                os.write(1, b"ok\n")
        if busy:
            remember()
            forget()


main()
