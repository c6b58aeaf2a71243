"""Allocates in two threads and ends, after a time, in one of several ways.

usage: endings.py HOW MICROSECONDS     exit, system_exit, kill, abort, exec, thread_exec

The program that is executed says `executed` and serves: `done` at each line.
"""
import os
import signal
import sys
import threading
import time

how, microseconds = sys.argv[1], int(sys.argv[2])
SERVE = "import os\nos.write(1, b'executed\\n')\nwhile os.read(0, 9): os.write(1, b'done\\n')"


def work():
    while True:
        bytes(3000)
        time.sleep(0.0001)


def end():
    time.sleep(microseconds / 1e6)
    if how == "exit":
        os._exit(0)
    elif how == "system_exit":
        sys.exit(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "abort":
        os.abort()
    os.execv(sys.executable, [sys.executable, "-c", SERVE])


threading.Thread(target=work, daemon=True).start()
os.write(1, b"ready\n")
if how == "thread_exec":
    threading.Thread(target=end).start()
    work()
end()
