"""Says `ready`, and answers each line with `done` after a thread called `matrix-worker` has made twenty blocks."""
import os
import sys
import threading

asked, ask = os.pipe()
answered, answer = os.pipe()


def allocate():
    kept = []
    for _ in range(20):
        kept.append(bytearray(76542))


def work():
    while os.read(asked, 1):
        allocate()
        os.write(answer, b"x")


threading.Thread(target=work, name="matrix-worker", daemon=True).start()
print("ready", flush=True)
for _ in sys.stdin:
    os.write(ask, b"x")
    os.read(answered, 1)
    print("done", flush=True)
