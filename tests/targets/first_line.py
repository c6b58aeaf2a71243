"""Allocates from its first line on, lets go of some of it, and ends as it is told to."""
import os
import signal
import sys

big = bytearray(50_000_000)
kept = bytearray(7_000_000)
how = sys.argv[1]
print(sys.argv[1:], sys.path[0] == os.path.dirname(os.path.abspath(__file__)), __name__, flush=True)
del big
if how == "exit":
    sys.exit(7)
elif how == "os._exit":
    del kept
    os._exit(5)
elif how == "raise":
    raise ValueError(how)
elif how == "echo":
    print(sys.stdin.read().upper(), end="")
elif how == "exec":
    os.execv("/bin/sh", ["sh", "-c", "echo another; exit 6"])
elif how == "fork":
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    os.write(writer, b"x")
    sys.exit(os.waitpid(child, 0)[1])
elif how == "daemon":
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        if os.fork() == 0:
            with open("daemon.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename("daemon.new", "daemon")
            signal.pause()
        os._exit(0)
    os.wait()
elif how == "wait":
    ends = []


    def hear(number, _):
        ends.append(signal.Signals(number).name)
        print("heard", ends[-1], flush=True)

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGINT, hear)
    print("waiting", os.getpid(), flush=True)
    line = sys.stdin.readline()
    print("got", line.strip(), *ends, flush=True)
else:
    os.kill(os.getpid(), getattr(signal, how))
