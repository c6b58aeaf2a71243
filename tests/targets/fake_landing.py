"""Puts a page into its own memory that says it is a landing with a live session, owned by the process that it is given.

Its journal is empty, or names slots everywhere (unmapped, unaligned, in the kernel, in its own code), or one word of
its own that it says holds a hook.
"""
import ctypes
import mmap
import os
import struct
import sys

journal, owner_pid, owner_start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def pages(count):
    return libc.mmap(None, 4096 * count, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


with open("/proc/self/stat") as file:
    own_start = int(file.read().rpartition(") ")[2].split()[19])
page, word = pages(8), pages(1)
entries = {
    "none": [],
    "wild": [
        (slot, old, new, 0)
        for slot in (0, 8, 1, word + 1, 2**63, 2**64 - 8, 2**47 - 8, id(object), ctypes.cast(libc.malloc, ctypes.c_void_p).value)
        for old, new in ((2**64 - 1, 0), (0x4141414141414141, 0), (1, 2))
    ],
    "own": [(word, 0x1234, 0, 0)],
}[journal]
journal_at = pages(8)
for index, entry in enumerate(entries):
    ctypes.memmove(journal_at + 32 * index, struct.pack("<4Q", *entry), 32)
claimed = {"none": 0, "wild": 2**40, "own": len(entries)}[journal]
text = page + 4096
header = b"memray landing\n\0" + struct.pack("<II", 1, 120 + 64 + 1024)
header += struct.pack(
    "<12Q", 8 * 4096, 4096, 0x1234, 0x3000, 0x4000, text, text + 4096, journal_at, 2**20, 7, claimed, 0
)
namespace = os.stat("/proc/self/ns/pid").st_ino
path = b"/tmp/\x1b[2J\n\xe2\x80\xaeevil"
header += struct.pack("<8Q", 1, owner_pid, owner_start, namespace, 0, own_start, 2**63, len(path)) + path.ljust(1024, b"\0")
ctypes.memmove(page, header, len(header))
assert libc.mprotect(page, 4096 * 8, mmap.PROT_READ) == 0
os.write(1, b"ready\n")
os.read(0, 1)
