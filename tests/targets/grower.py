"""Keeps what it is told to: each line is a number of bytes, touched and kept, and answered by `kept`."""
import os

KEPT = []
os.write(1, b"ready\n")
while True:
    line = os.read(0, 100)
    if not line:
        break
    size = int(line)
    # In blocks that malloc maps one by one, so that resident memory grows at once.
    for _ in range(0, size, 1 << 20):
        KEPT.append(b"\1" * (1 << 20))
    os.write(1, b"kept\n")
