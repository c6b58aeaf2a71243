"""usage: interrupted.py LIBRARY

Each line of input runs interrupted.c's `run` for so many signals, and is answered by `done` and how often it mapped."""
import ctypes
import sys

library = ctypes.CDLL(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    print("done", library.run(int(line)), flush=True)
