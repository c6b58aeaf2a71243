import ctypes, os, sys, types

addr2line = ctypes.pythonapi.PyCode_Addr2Line
addr2line.argtypes = [ctypes.py_object, ctypes.c_int]
addr2line.restype = ctypes.c_int

ODD = """
def far(x):
    a = x



{gap}
    b = (a +
         x *
         far(
             a), {long})
    for i in x: a = [c for c in i if c]
    try:
        with a as d: return d
    finally:
        del b
    return lambda: (yield a,
                    b)
""".format(gap="\n" * 300, long=", ".join("x[%d]" % i for i in range(400)))

MODULES = """argparse ast asyncio/base_events calendar codecs collections/__init__ configparser _pydatetime datetime
_pydecimal difflib doctest enum fractions functools inspect ipaddress json/decoder logging/__init__ mailbox pathlib
pickletools pydoc random shutil statistics subprocess tarfile threading typing unittest/mock zipfile""".split()


def walk(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)


def sources():
    yield ODD, "<odd>"
    for name in MODULES:
        path = os.path.join(os.path.dirname(os.__file__), name + ".py")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                yield file.read(), path


for source, path in sources():
    for code in walk(compile(source, path, "exec")):
        table = code.co_lnotab if sys.version_info < (3, 10) else code.co_linetable
        lines = ",".join(str(addr2line(code, at)) for at in range(0, len(code.co_code), 2))
        print("%08x" % sys.hexversion, code.co_firstlineno, table.hex(), lines)
