"""A full cache that turns over: of 1,500 entries of 20,000 bytes the oldest is replaced by a new one, all the time.

Prints `ready`; its input's end ends it.
"""
import os
import select

CACHE = [bytearray(20_000) for _ in range(1500)]


def refresh(index):
    CACHE[index % len(CACHE)] = bytearray(20_000)


def main():
    index = 0
    for _ in range(2 * len(CACHE)):
        refresh(index)
        index += 1
    os.write(1, b"ready\n")
    while not select.select([0], [], [], 0.001)[0]:
        for _ in range(4):
            refresh(index)
            index += 1


main()
