"""Loads C libraries and calls their functions on command.

Prints `ready`, then answers each line with `done` and a number:

    load NAME PATH KIND       KIND: lazy, now, global, deep (RTLD_DEEPBIND) or space (dlmopen into a new namespace)
    call NAME FUNCTION ARGUMENTS…
    address VARIABLE ARGUMENT             calls the function whose address the environment holds
    close NAME
    python COUNT SIZE         makes COUNT bytearrays of SIZE bytes and lets them go
"""
import _ctypes
import ctypes
import os

RTLD_LAZY, RTLD_NOW, RTLD_GLOBAL, RTLD_DEEPBIND = 1, 2, 0x100, 8
MODES = {"lazy": RTLD_LAZY, "now": RTLD_NOW, "global": RTLD_LAZY | RTLD_GLOBAL, "deep": RTLD_LAZY | RTLD_DEEPBIND}
LM_ID_NEWLM = -1
LIBRARIES = {}


def in_new_namespace(path):
    functions = ctypes.CDLL(None)
    if not hasattr(functions, "dlmopen"):
        functions = ctypes.CDLL("libdl.so.2")
    functions.dlmopen.restype = ctypes.c_void_p
    handle = functions.dlmopen(ctypes.c_long(LM_ID_NEWLM), path.encode(), RTLD_LAZY)
    assert handle, path
    return handle


def load(name, path, kind):
    if kind == "space":
        LIBRARIES[name] = ctypes.CDLL(path, handle=in_new_namespace(path))
    else:
        # ctypes.CDLL adds RTLD_NOW.
        LIBRARIES[name] = ctypes.CDLL(path, handle=_ctypes.dlopen(path, MODES[kind]))
    return 0


def call(name, function, *arguments):
    function = LIBRARIES[name][function]
    function.restype = ctypes.c_long
    return function(*[ctypes.c_long(int(x)) if x.lstrip("-").isdigit() else x.encode() for x in arguments])


def address(variable, argument):
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(int(getenv(variable.encode())))(int(argument))


def close(name):
    return _ctypes.dlclose(LIBRARIES.pop(name)._handle) or 0


def python(count, size):
    for _ in range(int(count)):
        bytearray(int(size))
    return 0


COMMANDS = {"load": load, "call": call, "address": address, "close": close, "python": python}


def main():
    os.write(1, b"ready\n")
    pending = b""
    while True:
        while b"\n" not in pending:
            more = os.read(0, 4096)
            if not more:
                return
            pending += more
        line, pending = pending.split(b"\n", 1)
        words = line.decode().split()
        os.write(1, b"done %d\n" % COMMANDS[words[0]](*words[1:]))


main()
