"""Puts itself under a limit, says `ready`, and answers each line with `done` after fifty blocks of 123457 bytes."""
import ctypes
import mmap
import os
import resource
import sys

libc = ctypes.CDLL(None, use_errno=True)
kept = []


def size_bytes(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(field)


def limit(which, value):
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


def nothing():
    pass


def address_space(spare):
    limit(resource.RLIMIT_AS, size_bytes("VmSize") + int(spare))


def data(spare):
    limit(resource.RLIMIT_DATA, size_bytes("VmData") + int(spare))


def files():
    limit(resource.RLIMIT_NOFILE, 64)
    try:
        while True:
            kept.append(os.dup(0))
    except OSError:
        pass


def file_size():
    limit(resource.RLIMIT_FSIZE, 0)


def locked():
    """mlockall(MCL_CURRENT | MCL_FUTURE)."""
    assert libc.mlockall(3) == 0, ctypes.get_errno()


def locked_later(most):
    """mlockall(MCL_FUTURE), up to a limit, with memory for the work in hand."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit(resource.RLIMIT_MEMLOCK, int(most) if hard < 0 else min(int(most), hard))
    libc.mallopt(-1, 1 << 30)
    work()
    assert libc.mlockall(2) == 0, ctypes.get_errno()


def mappings(spare):
    """As many mappings as the kernel permits, but for some: neighbours of different protection."""
    with open("/proc/sys/vm/max_map_count") as file:
        most = int(file.read())
    with open("/proc/self/maps") as file:
        wanted = most - int(spare) - sum(1 for _ in file)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.mmap(None, (wanted + 2) * mmap.PAGESIZE, 0, 0x22, -1, 0)
    for page in range(0, wanted, 2):
        assert libc.mprotect(start + (page + 1) * mmap.PAGESIZE, mmap.PAGESIZE, mmap.PROT_READ) == 0


def no_new_code():
    """PR_SET_MDWE, as systemd's MemoryDenyWriteExecute has it since 254."""
    if libc.prctl(65, 1, 0, 0, 0) != 0:
        print("ready unsupported", flush=True)
        sys.exit()


def not_dumpable():
    assert libc.prctl(4, 0, 0, 0, 0) == 0


def work():
    blocks = [bytearray(123456) for _ in range(50)]
    del blocks


globals()[sys.argv[1]](*sys.argv[2:])
print("ready", flush=True)
while os.read(0, 100):
    work()
    os.write(1, b"done\n")
