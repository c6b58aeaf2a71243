"""Runs code of any file name: `run LINE PATH` allocates in line LINE of code that says it is PATH's."""
import os
import sys

kept = []


def run(line, path):
    code = "\n" * (int(line) - 1) + "kept.append(bytearray(123456))"
    exec(compile(code, path, "exec"), {"kept": kept})


print("ready", flush=True)
for command in sys.stdin:
    verb, _, rest = command.rstrip("\n").partition(" ")
    if verb == "run":
        run(*rest.split(" ", 1))
    elif verb == "chdir":
        os.chdir(rest)
    elif verb == "chroot":
        os.chroot(rest)
        os.chdir("/")
    print("done", flush=True)
