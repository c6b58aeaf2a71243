"""Makes 100 blocks of 3001 to 3100 bytes and keeps every second one, and 100 of 40 bytes, of which none is kept, at each
`go`, answered by `done`; at `drop` lets go what it kept, answered by `dropped`."""
import os

KEPT = []


def ledger():
    for i in range(100):
        block = bytes(3001 + i)
        if i % 2 == 0:
            KEPT.append(block)
    block = None
    for _ in range(100):
        bytes(40)


os.write(1, b"ready\n")
while True:
    command = os.read(0, 100).strip()
    if command == b"go":
        ledger()
        os.write(1, b"done\n")
    elif command == b"drop":
        KEPT.clear()
        os.write(1, b"dropped\n")
    else:
        break
