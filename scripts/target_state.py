"""What a tracker may leave behind in a process, seen from outside; shared by scripts/kill_points and scripts/storm."""
import os
import re
import struct

MAGIC = b"memray landing\n\0"
REGION_BYTES_MIN = 8 << 20


def maps(pid):
    rows = []
    with open("/proc/%d/maps" % pid) as lines:
        for line in lines:
            span, permissions, offset, device, inode, path = (line.split(None, 5) + [""])[:6]
            start, end = (int(part, 16) for part in span.split("-"))
            rows.append((start, end, permissions, int(inode), path.strip()))
    return rows


def landings(pid, memory, rows):
    """(start, text start, text end, session state, owner pid) of each landing."""
    found = []
    for start, end, permissions, inode, path in rows:
        if inode == 0 and not path and permissions.startswith("r-"):
            try:
                head = os.pread(memory, 184, start)
            except OSError:
                continue
            if head.startswith(MAGIC):
                text_start, text_end = struct.unpack_from("<2Q", head, 64)
                state, owner = struct.unpack_from("<2Q", head, 120)
                found.append((start, text_start, text_end, state, owner))
    return found


def regions(rows):
    """Mappings that tool and target share. Shared memory of a program's own is smaller in our targets."""
    return [(start, end) for start, end, permissions, inode, path in rows
            if path.startswith("/memfd:memray")
            or (path.startswith("/dev/zero (deleted)") and end - start >= REGION_BYTES_MIN)]


def blanks(pid, rows):
    """Anonymous mappings that can be executed, not written, and that are too large for our targets' own and are not the parts of a landing."""
    found = []
    with open("/proc/%d/mem" % pid, "rb", buffering=0) as memory:
        marks = [start for start, *_ in landings(pid, memory.fileno(), rows)]
    for start, end, permissions, inode, path in rows:
        is_part = any(0 <= start - mark < 16 << 20 for mark in marks)
        if permissions == "r-xp" and inode == 0 and not path and end - start > 1 << 20 and not is_part:
            found.append((start, end))
    return found


def hooked_words(memory, rows, text_start, text_end):
    """Addresses in the modules' private data that hold an address of the landing's text."""
    found = []
    if text_start == 0:
        return found
    # All addresses of so small a range share their upper six bytes with one of at most two prefixes.
    prefixes = {struct.pack("<Q", page)[2:] for page in (text_start, text_end - 1)}
    pattern = re.compile(b"|".join(re.escape(prefix) for prefix in prefixes))
    for start, end, permissions, inode, path in rows:
        if inode == 0 or "p" not in permissions or "x" in permissions or path.startswith("/memfd:"):
            continue
        try:
            content = os.pread(memory, end - start, start)
        except OSError:
            continue
        for match in pattern.finditer(content):
            at = match.start() - 2
            if at >= 0 and at % 8 == 0:
                value = struct.unpack_from("<Q", content, at)[0]
                if text_start <= value < text_end:
                    found.append((start + at, path))
    return found


def status(pid, tid=None):
    with open("/proc/%d/task/%d/status" % (pid, tid or pid)) as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)


def descriptors(pid):
    found = {}
    for number in os.listdir("/proc/%d/fd" % pid):
        try:
            found[int(number)] = os.readlink("/proc/%d/fd/%s" % (pid, number))
        except OSError:
            pass
    return found


def faults(pid, descriptors_before=None, live=False):
    """Lines that say what is not as it should be after a detach; an empty list if all is well."""
    found = []
    rows = maps(pid)
    memory = os.open("/proc/%d/mem" % pid, os.O_RDONLY)
    try:
        for start, text_start, text_end, state, owner in landings(pid, memory, rows):
            if live:
                continue
            if state:
                found.append("landing %#x: session mark stands, owner %d" % (start, owner))
            words = hooked_words(memory, rows, text_start, text_end)
            if words:
                found.append("landing %#x: %d slots still hooked, first %#x in %s" % ((start, len(words)) + words[0]))
    finally:
        os.close(memory)
    if not live:
        for start, end in blanks(pid, rows):
            found.append("%#x-%#x: memory for a landing without one in it" % (start, end))
        for start, end in regions(rows):
            found.append("%#x-%#x: a region still mapped" % (start, end))
    for tid in map(int, os.listdir("/proc/%d/task" % pid)):
        try:
            fields = status(pid, tid)
        except OSError:
            continue
        if fields["TracerPid"] != "0":
            found.append("thread %d is traced by %s" % (tid, fields["TracerPid"]))
        if fields["State"][0] in "tT":
            found.append("thread %d is stopped: %s" % (tid, fields["State"]))
        # Threads of a library's may block signals of their own accord; nobody blocks SIGTRAP and SIGSEGV.
        blocked = int(fields["SigBlk"], 16)
        if blocked & (1 << 4 | 1 << 10):
            found.append("thread %d has signals blocked: %x" % (tid, blocked))
    if not live:
        memfds = {n: link for n, link in descriptors(pid).items() if link.startswith("/memfd:memray")}
        if memfds:
            found.append("descriptors left: %s" % memfds)
    return found


class State:
    """What a process has that it could have more of each time. Take it while the process does nothing."""

    # What a program's own allocator may keep in one rest and not in another.
    MAPPINGS_MAX = 60
    RSS_KB_MAX = 24 << 10
    # Arenas of threads that were not there before reserve 64 MiB each; reservations of ours have 9 MiB.
    RESERVED_MAX = 1

    def __init__(self, pid):
        rows = maps(pid)
        self.descriptors = sorted(descriptors(pid).values())
        self.threads = len(os.listdir("/proc/%d/task" % pid))
        self.mappings = len(rows)
        with open("/proc/%d/smaps_rollup" % pid) as lines:
            self.rss_kb = next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
        memory = os.open("/proc/%d/mem" % pid, os.O_RDONLY)
        try:
            self.landings = len(landings(pid, memory, rows))
            spans = {struct.unpack("<Q", os.pread(memory, 8, landing[0] + 88))[0] for landing in landings(pid, memory, rows)}
        finally:
            os.close(memory)
        # Each reservation is a mapping of its own, being left out of core dumps.
        self.reservations = sum(end - start in spans for start, end, permissions, inode, path in rows if not path)

    def more_in(self, later):
        """Lines that say what there is more of."""
        found = []
        if later.descriptors != self.descriptors:
            found.append("descriptors %s, were %s" % (later.descriptors, self.descriptors))
        if later.threads != self.threads:
            found.append("threads %d, were %d" % (later.threads, self.threads))
        for name, least in (("mappings", self.MAPPINGS_MAX), ("rss_kb", self.RSS_KB_MAX), ("landings", 0),
                            ("reservations", self.RESERVED_MAX)):
            before, now = getattr(self, name), getattr(later, name)
            if now > before + least:
                found.append("%s: %d, were %d" % (name, now, before))
        return found


def leftover_processes(binary):
    """Processes that run this binary."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink("/proc/%s/exe" % pid) == binary:
                with open("/proc/%s/cmdline" % pid, "rb") as text:
                    found.append((int(pid), text.read().replace(b"\0", b" ").decode(errors="replace")))
        except OSError:
            pass
    return found
