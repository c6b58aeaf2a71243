#!/usr/bin/env python3
"""Runs a Python program under memray from its first line on, by attaching to it: a stand-in for `memray run`.

usage: attach_run.py --memray FILE -o CAPTURE [--flag FLAG …] --python INTERPRETER SCRIPT [ARGUMENT …]

The program's process starts held at a pipe; memray attaches; the process is released and runs the script; it is
held again at its end until memray has detached, so that its own figures hold no part of memray's. Exits with the
script's status.
"""
import argparse
import os
import subprocess
import sys

HELD = """
import os, sys
go, done = map(int, sys.argv[1:3])
del sys.argv[:3]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
os.write(done, b".")
os.read(go, 1)
import runpy
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    os.write(done, b".")
    os.read(go, 1)
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--memray", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--flag", action="append", default=[])
    parser.add_argument("--python", required=True)
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()

    go_read, go = os.pipe()
    done, done_write = os.pipe()
    command = [options.python, "-c", HELD, str(go_read), str(done_write), options.script] + options.arguments
    child = subprocess.Popen(command, pass_fds=(go_read, done_write))
    os.close(go_read)
    os.close(done_write)
    try:
        # Not before the interpreter is up: until then it is no Python to attach to.
        os.read(done, 1)
        attach = [options.memray, "attach", "-f", "-q", "-o", options.output] + options.flag + [str(child.pid)]
        subprocess.run(attach, check=True, stdout=subprocess.DEVNULL)
        os.write(go, b".")
        if os.read(done, 1):
            # Nothing is left to detach from where the program ended without reaching its end.
            subprocess.run([options.memray, "detach", str(child.pid)], check=True, stdout=subprocess.DEVNULL)
            os.write(go, b".")
        status = child.wait()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    sys.exit(status if status >= 0 else 128 - status)


main()
