"""Drives the payload inside this interpreter and compares what it walked with what sys._getframe says.

Run as: walk_check.py PAYLOAD.so HOOK-COUNT. The layouts are written down a second time here, from offsetof in release builds for x86_64
Linux, so that a mistake in the tool's table and one in the payload can't hide each other. Prints one line and exits 0.
"""
import ctypes
import os
import struct
import sys
import threading

NONE = 0xFFFFFFFF
MINOR = sys.version_info[1]
SLOTS = 1 << 16
THREADS, STACKS, CODES = 8192 * 64, 65536 * 8, 16384 * 8
RING = 4096 + THREADS + STACKS + CODES
# Behind the ring: the owners of the paths and 64 paths.
PATHS = 4096 + 64 * 90112
LAP_BASE = 77
ALLOCATION, FREE, THREAD, STACK, CODE, CONTINUATION = 2, 3, 8, 9, 10, 11
OFFSETS = (
    "enabled tstate_offset tstate_second tstate_thread_id tstate_frame cframe_frame frame_code frame_previous "
    "frame_instr frame_owner owner_shim_min frame_is_entry code_instructions code_filename code_name code_qualname "
    "code_firstlineno code_linetable code_version object_type unicode_length unicode_state unicode_ascii_data "
    "unicode_compact_data bytes_size bytes_data"
).split()


class Layout(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in OFFSETS] + [
        ("code_type", ctypes.c_uint64),
        ("finalizing", ctypes.c_uint64),
    ]


class Config(ctypes.Structure):
    _fields_ = [("region", ctypes.c_uint64), ("real", ctypes.c_uint64 * int(sys.argv[2])), ("ring_mask", ctypes.c_uint64)]
    _fields_ += [
        (name, ctypes.c_uint32)
        for name in "lap_base ticks_per_us wait_event_us wait_second_us tid_offset glibc_chunks".split()
    ]
    _fields_ += [("python", Layout)]


def layout():
    """This version's offsets."""
    table = dict.fromkeys(OFFSETS, NONE)
    table.update(enabled=1, owner_shim_min=256, object_type=8, unicode_length=16, unicode_state=32)
    table.update(unicode_ascii_data=48, unicode_compact_data=72, bytes_size=16, bytes_data=32)
    if MINOR <= 10:
        table.update(tstate_thread_id=176, tstate_frame=24, frame_code=32, frame_previous=24)
        table.update(frame_instr=96 if MINOR == 10 else 104)
        table.update(code_filename=104, code_name=112, code_firstlineno=40, code_linetable=120)
        return table
    table.update(code_filename=112, code_name=120, code_qualname=128, code_linetable=136, frame_instr=56)
    if MINOR == 11:
        table.update(tstate_thread_id=152, tstate_frame=56, cframe_frame=8, frame_code=32, frame_previous=48)
        table.update(frame_owner=69, frame_is_entry=68, code_instructions=184, code_firstlineno=72)
        return table
    table.update(frame_code=0, frame_previous=8, frame_owner=70, owner_shim_min=3, code_firstlineno=68)
    table.update(code_version=92, unicode_ascii_data=40, unicode_compact_data=56)
    if MINOR == 12:
        table.update(tstate_thread_id=136, tstate_frame=56, cframe_frame=0, code_instructions=192)
    else:
        table.update(tstate_thread_id=152, tstate_frame=72, code_instructions=200)
    return table


payload = ctypes.CDLL(sys.argv[1])
libc = ctypes.CDLL(None)
config = Config.in_dll(payload, "memray_config")
flag = ctypes.c_uint64.in_dll(payload, "memray_flag")
malloc, free = payload.memray_hook_malloc, payload.memray_hook_free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.restype, free.argtypes = None, [ctypes.c_void_p]


def word(address):
    return ctypes.c_uint64.from_address(address).value


def configure():
    libc.pthread_self.restype = ctypes.c_uint64
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    ctypes.pythonapi.PyGILState_GetThisThreadState.restype = ctypes.c_uint64
    pointer, state = libc.pthread_self(), ctypes.pythonapi.PyGILState_GetThisThreadState()
    descriptor = ctypes.string_at(pointer, 0x700)
    for name, value in layout().items():
        setattr(config.python, name, value)
    # The inline pthread-specific values and the tid lie in libc's thread descriptor; found by their values.
    config.python.tstate_offset = descriptor.index(struct.pack("<Q", state), 0x300)
    config.tid_offset = descriptor.index(struct.pack("<I", threading.get_native_id()))
    config.python.code_type = id(type(configure.__code__))
    config.real[0] = ctypes.cast(libc.malloc, ctypes.c_void_p).value
    config.real[3] = ctypes.cast(libc.free, ctypes.c_void_p).value
    config.region = libc.mmap(None, RING + SLOTS * 32 + PATHS, 3, 0x22, -1, 0)
    config.ring_mask, config.lap_base, config.glibc_chunks = SLOTS - 1, LAP_BASE, 1


def drain():
    """Records as [kind, body, payload]."""
    records = []
    for position in range(word(config.region)):
        mark, *body = struct.unpack("<4Q", ctypes.string_at(config.region + RING + position % SLOTS * 32, 32))
        assert mark >> 32 == LAP_BASE + 1 + position // SLOTS, "not committed"
        if mark & 255 == CONTINUATION:
            records[-1][2].extend(struct.pack("<3Q", *body))
        else:
            records.append((mark & 255, body, bytearray()))
    return records


def decode_code(payload):
    """File name, name, qualified name, first line, line table."""
    _, line, *rest = struct.unpack_from("<Qi4I4B", payload)
    sizes, kinds, cut = rest[:4], rest[4:7] + [0], rest[7]
    assert cut == 0
    parts, at = [], 32
    for size, kind in zip(sizes, kinds):
        parts.append((bytes(payload[at : at + size]), kind))
        at += size
    encodings = {0: "ascii", 1: "latin1", 2: "utf-16-le", 4: "utf-32-le"}
    names = [part.decode(encodings[kind]) for part, kind in parts[:3]]
    return names + [line, parts[3][0]]


def expected():
    """The caller's stack as Python sees it, innermost first."""
    frame, frames = sys._getframe(1), []
    while frame:
        frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return frames


def leaf(size):
    block = malloc(size)
    return block, expected()


def recursive(depth, size):
    return leaf(size) if depth == 0 else recursive(depth - 1, size)


def generator(size):
    yield leaf(size)


async def coroutine(size):
    return leaf(size)


class Ünïcode:
    def mèthode日本(self, size):
        return leaf(size)


exec(compile("def elsewhere(size): return leaf(size)", "/tmp/😀.py", "exec"))


def run_coroutine(size):
    try:
        coroutine(size).send(None)
    except StopIteration as stop:
        return stop.value


def in_thread(size):
    results = []
    # Deep enough for a stack that takes more than one record.
    thread = threading.Thread(target=lambda: results.append(recursive(9500, size)))
    thread.start()
    thread.join()
    return results[0]


def check(frames, codes, wanted):
    assert len(frames) == len(wanted), (len(frames), len(wanted))
    for index, ((code_id, position), (code, lasti)) in enumerate(zip(frames, wanted)):
        qualname = getattr(code, "co_qualname", "")
        table = code.co_lnotab if MINOR < 10 else code.co_linetable
        got = codes[code_id]
        assert got == [code.co_filename, code.co_name, qualname, code.co_firstlineno, table], (index, got)
        offset = ((position & 0x7FFFFFFF) - 1) * (2 if MINOR == 10 else 1)
        # The innermost frame has moved on since.
        assert offset == lasti if index else 0 <= offset <= lasti, (index, offset, lasti)
    entries = [position >> 31 for _, position in frames]
    # C entered the outermost frame, and up to 3.10 every one.
    assert entries[-1] == 1 and (MINOR > 10 or all(entries)), entries


def main():
    configure()
    sys.setrecursionlimit(30000)
    threading.stack_size(512 << 20)
    calls = [leaf, lambda size: recursive(50, size), lambda size: next(generator(size)), run_coroutine]
    calls += [lambda size: list(map(leaf, [size]))[0], Ünïcode().mèthode日本, elsewhere, in_thread]
    sizes = range(1000, 1000 + len(calls))
    flag.value = 1
    results = [call(size) for call, size in zip(calls, sizes)]
    for block, _ in results:
        free(block)
    flag.value = 0
    codes, stacks, allocations, frees = {}, {}, [], []
    for kind, body, payload in drain():
        if kind == CODE:
            codes[body[0]] = decode_code(payload)
        elif kind == STACK:
            frames = struct.iter_unpack("<QI", payload[: (body[1] >> 32) * 12])
            stack = stacks.setdefault(body[0], [])
            assert len(stack) == body[1] & 0xFFFFFFFF
            stack.extend(frames)
        elif kind == ALLOCATION:
            allocations.append((body[0], body[1], list(stacks[body[2]])))
        elif kind == FREE:
            frees.append(body[0])
        else:
            assert kind == THREAD, kind
    assert [allocation[1] for allocation in allocations] == list(sizes)
    assert frees == [block for block, _ in results]
    for (block, _, frames), (real_block, wanted) in zip(allocations, results):
        assert block == real_block
        check(frames, codes, wanted)
    losses = [word(config.region + 192 + 8 * index) for index in range(8)]
    assert losses == [0] * 8, losses
    print("ok", len(allocations), "stacks,", len(codes), "code objects")
    sys.stdout.flush()
    # The payload stays loaded: leave without tearing the interpreter down.
    os._exit(0)


main()
