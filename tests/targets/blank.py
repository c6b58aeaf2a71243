"""Maps memory where a memray that was killed at once would have left some: one mapping is empty and executable; one holds
a byte and one can be written, so that they are the program's own."""
import ctypes
import mmap
import os

MARK, BYTES = 0x6D3A000, 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def pages(at):
    wanted = (0x600 + at << 32) + MARK
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    found = libc.mmap(wanted, BYTES, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert found == wanted, hex(found)
    return found


empty, used, writable = pages(0), pages(1), pages(2)
ctypes.memset(used + BYTES - 1, 7, 1)
for start in (empty, used):
    assert libc.mprotect(start, BYTES, mmap.PROT_READ | mmap.PROT_EXEC) == 0
os.write(1, b"ready\n")
while os.read(0, 100):
    assert ctypes.string_at(used + BYTES - 1, 1) == b"\7"
    ctypes.memset(writable, 1, BYTES)
    os.write(1, b"done\n")
