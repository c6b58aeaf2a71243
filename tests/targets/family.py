"""A process with children. Each command is a line and is answered by one; `ready` comes first.

fork: a child that stays, `forked PID`. child: let the last one work, it answers `worked`. grandchild: let it fork,
`forked PID`, which takes its place. end: let the last one exit, `ended`. kill: kill it, `ended`. traced: a child that
lets its parent trace it and stays, `forked PID`. storm N: N children that exit at once, `done`. daemon: a child that
forks another and exits, `forked PID`. exec: a subprocess that runs Python and stays, `forked PID`. stay: a child that
outlives its parent, `forked PID`. exit: exit, whatever
the children do.
"""
import ctypes
import os
import signal
import subprocess
import sys
import time

KEPT = []
STAYS = []
WORKER = """
import os
KEPT = []
def executed_works():
    for _ in range(20):
        KEPT.append(bytearray(63_333))
while True:
    word = os.read(0, 1)
    if word == b"w":
        executed_works()
        os.write(1, b"worked\\n")
    elif not word or word == b"e":
        os._exit(0)
"""


def child_works():
    for _ in range(20):
        KEPT.append(bytearray(61_111))


def parent_works():
    for _ in range(20):
        KEPT.append(bytearray(62_222))


def serve(reader):
    while True:
        word = os.read(reader, 1)
        if word == b"w":
            child_works()
            os.write(1, b"worked\n")
        elif word == b"f":
            child = os.fork()
            if child:
                os.write(1, b"forked %d\n" % child)
                os.waitpid(child, 0)
                os._exit(0)
        else:
            if STAYS and not word:
                time.sleep(600)
            os._exit(0)


def fork(before=lambda: None):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        before()
        serve(reader)
    os.close(reader)
    return child, writer


def allow_tracing():
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)


def daemonise():
    if os.fork():
        os._exit(0)
    os.setsid()
    os.write(1, b"forked %d\n" % os.getpid())


child, writer, process = 0, None, None
os.write(1, b"ready\n")
while True:
    word, _, rest = os.read(0, 100).decode().strip().partition(" ")
    answer = "done"
    if word in ("", "exit"):
        os._exit(0)
    elif word == "work":
        parent_works()
        answer = "worked"
    elif word == "fork":
        child, writer = fork()
        answer = "forked %d" % child
    elif word == "stay":
        child, writer = fork(lambda: STAYS.append(True))
        answer = "forked %d" % child
    elif word == "traced":
        child, writer = fork(allow_tracing)
        answer = "forked %d" % child
    elif word == "daemon":
        child, writer = fork(daemonise)
        os.waitpid(child, 0)
        child = 0
        continue
    elif word == "child":
        os.write(writer, b"w")
        continue
    elif word == "grandchild":
        os.write(writer, b"f")
        continue
    elif word == "end":
        os.write(writer, b"e")
        if child:
            os.waitpid(child, 0)
        answer = "ended"
    elif word == "kill":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answer = "ended"
    elif word == "storm":
        for _ in range(int(rest)):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    elif word == "exec":
        process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE)
        child, writer = process.pid, process.stdin.fileno()
        answer = "forked %d" % child
    os.write(1, answer.encode() + b"\n")
