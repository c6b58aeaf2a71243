"""Has as many mappings as it is told, some of them of files with odd names, some of files that say they are ELF."""
import ctypes
import mmap
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
count = int(sys.argv[1])
# One mapping, of which every other page is protected: as many mappings as pages.
area = mmap.mmap(-1, count * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
for page in range(0, count, 2):
    assert libc.mprotect(start + page * 4096, 4096, mmap.PROT_READ) == 0
kept = []
for name in ("new\nline.so", "lib.so (deleted)", "\x1b[2J.so", " ", "7f00-7f10 r-xp 0 0:0 0 x"):
    with open(name, "wb+") as file:
        file.write(b"\x7fELF\x02\x01\x01" + b"\xff" * 20_000)
        file.flush()
        for _ in range(20):
            kept.append(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
os.unlink(" ")
os.mkfifo(" ")
os.write(1, b"ready\n")
os.read(0, 100)
