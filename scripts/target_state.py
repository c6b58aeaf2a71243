"""What a tracker may leave behind in a process, seen from outside; shared by scripts/kill_points and scripts/storm."""
import os
import re
import struct

MAGIC = b"memray landing\n\0"


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
        for start, end, permissions, inode, path in rows:
            if path.startswith(("/memfd:memray", "/dev/zero")):
                found.append("%#x-%#x %s still mapped" % (start, end, path))
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
