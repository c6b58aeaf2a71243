"""Runs a command on a terminal of its own, closes the terminal once the command has said something, and waits.

usage: hangup.py COMMAND …   Prints `ready` when the command has spoken; after a line of input it hangs up and
prints `status` and what wait gave.
"""
import os
import pty
import sys

pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
said = b""
while b"tracking" not in said:
    said += os.read(terminal, 1000)
os.write(1, b"ready\n")
os.read(0, 100)
os.close(terminal)
os.write(1, b"status %d\n" % os.waitpid(pid, 0)[1])
