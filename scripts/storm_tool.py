"""How scripts/storm uses memray: the ways of a cycle, and interpreters that end meanwhile."""
import os
import signal
import subprocess
import tempfile
import threading
import time

import storm_judge
import storm_targets
import target_state

MODES = ("foreground", "background", "kill", "kill_both", "interrupt", "interrupt_twice", "two")
# A tool that takes this long hangs, however busy the machine.
TOOL_SECONDS = 120
# What a target that ends meanwhile, or is young, may be refused with.
REFUSALS = ("there is no process", "gone", "ended", "not Python", "not a Python", "not CPython", "Python", "zombie", "being tracked",
            "being attached", "is attaching", "D state", "stack that memray may use", "exec", "descriptor")


class Tool:
    def __init__(self, memray, tmp, random, attach_options=()):
        self.memray, self.tmp, self.random, self.attach_options = memray, tmp, random, list(attach_options)
        self.refusals = {}

    def attach(self, pid, *flags, name="out"):
        command = [self.memray, "attach", "-f", "-o", "%s/%s.bin" % (self.tmp, name)]
        command += self.attach_options + list(flags) + [str(pid)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def detach(self, pid, allowed=(0,)):
        command = [self.memray, "detach", str(pid)]
        return self.wait(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), allowed)

    def processes_of(self, pid):
        """Of this memray, that work on a target."""
        return self.processes_on({pid})

    def processes_on(self, pids):
        """The same for several: others may use this memray meanwhile."""
        found = target_state.leftover_processes(self.memray)
        return [(own, text) for own, text in found if any((" %d " % pid) in text + " " for pid in pids)]

    def wait(self, tool, allowed=(0,)):
        """What is wrong with how a tool ends."""
        try:
            said = tool.communicate(timeout=TOOL_SECONDS)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            where = storm_judge.describe(tool.pid)
            tool.kill()
            return ["the tool HANGS: %s: %s %s" % (tool.args, tool.communicate()[1], where)]
        shown = "%s: exit %d: %s" % (" ".join(tool.args[1:]), tool.returncode, said)
        if tool.returncode not in allowed or "panicked" in said or "internal" in said:
            return [shown]
        if tool.returncode == 1:
            first = said.splitlines()[0] if said else ""
            if not first.startswith("memray: ") or not any(text in first for text in REFUSALS):
                return ["says what is not sane: " + shown]
            plain = "".join(c for c in first[8:] if not c.isdigit())[:70]
            self.refusals[plain] = self.refusals.get(plain, 0) + 1
        return []

    def take_refusals(self):
        taken, self.refusals = self.refusals, {}
        return taken

    def cycle(self, mode, target):
        """One attach and its end. Returns what is wrong."""
        pid, random = target.pid, self.random
        may_fail = (0, 1) if target.is_fleeting else (0,)
        moment = random.random() * random.choice((0.005, 0.03, 0.06, 0.2))
        if mode == "foreground":
            return self.wait(self.attach(pid, "-q", "--duration", random.choice(("0.001", "0.02", "0.1"))), may_fail)
        if mode == "background":
            wrong = self.wait(self.attach(pid, "-q"), may_fail)
            time.sleep(moment)
            return wrong + self.detach(pid, may_fail)
        if mode == "two":
            tools = [self.attach(pid, "-q", "--duration", "0.02", name="out%d" % i) for i in range(2)]
            wrong = [line for tool in tools for line in self.wait(tool, (0, 1))]
            if may_fail == (0,) and all(tool.returncode for tool in tools):
                wrong.append("both of two attaches failed")
            return wrong
        if mode.startswith("interrupt"):
            tool = self.attach(pid, "-q", "--foreground")
            time.sleep(moment + 0.01)
            tool.send_signal(signal.SIGINT)
            if mode == "interrupt_twice":
                time.sleep(random.random() * 0.01)
                tool.send_signal(signal.SIGINT)
            return self.wait(tool, may_fail + (-2,))
        return self.kill(mode == "kill_both", target, moment, may_fail)

    def kill(self, both, target, moment, may_fail):
        """The tool, and its guardian as well: then the next attach or detach repairs."""
        tool = self.attach(target.pid, "-q", "--foreground")
        time.sleep(moment)
        if both:
            tool.send_signal(signal.SIGSTOP)
            for guardian, text in self.processes_of(target.pid):
                if " %d " % tool.pid in text:
                    os.kill(guardian, signal.SIGKILL)
        tool.kill()
        wrong = self.wait(tool, (-9, 0, 1))
        if both and target.process.poll() is None:
            if self.random.random() < 0.5:
                wrong += self.detach(target.pid, (0, 1))
            else:
                wrong += self.wait(self.attach(target.pid, "-q", "--duration", "0.01"), may_fail)
        return wrong


def storm_of_exits(tool, pythons, wanted, seconds, faults):
    """Interpreters that end at any moment of attach, window and detach. Returns how many faults there were."""
    end, lock = time.monotonic() + seconds, threading.Lock()
    targets = set()
    counts = {"exits": 0, "attached": 0, "refused": 0}

    def is_over():
        return counts["exits"] >= wanted if wanted else time.monotonic() > end

    def work(number, tmp):
        with open(tmp + "/exits.py", "w") as file:
            file.write(storm_targets.EXITS)
        while not is_over():
            with lock:
                life, wait, way = (tool.random.random() for _ in range(3))
            python = pythons[int(life * 1000) % len(pythons)]
            target = subprocess.Popen([python, tmp + "/exits.py", "%f" % (life * 0.06)], stderr=subprocess.PIPE)
            time.sleep(wait * 0.12)
            flags = ["-q", "--duration", ("0.001", "0.02", "5")[int(way * 3)]] if way < 0.8 else ["-q"]
            attach = tool.attach(target.pid, *flags, name="exit%d" % number)
            wrong = tool.wait(attach, (0, 1))
            try:
                said = target.communicate(timeout=TOOL_SECONDS)[1]
            except subprocess.TimeoutExpired:
                target.kill()
                said = target.communicate()[1] + b"HANGS"
            # Python may find its own daemon threads in its way; it does so untracked, too.
            if target.returncode != 7:
                wrong.append("%s ends with %d: %s" % (python, target.returncode, said[-600:]))
            with lock:
                targets.add(target.pid)
                counts["exits"] += 1
                counts["attached" if attach.returncode == 0 else "refused"] += 1
                if wrong and wanted and counts["exits"] > wanted:
                    wrong = []
                for line in wrong:
                    faults.add("exits, number %d" % counts["exits"], line)
                if counts["exits"] % 1000 == 0:
                    print("  exits: %s" % counts, flush=True)

    with tempfile.TemporaryDirectory() as tmp:
        workers = [threading.Thread(target=work, args=(i, tmp)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        deadline = time.monotonic() + TOOL_SECONDS
        left = tool.processes_on(targets)
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = tool.processes_on(targets)
        for pid, text in left:
            faults.add("exits, at the end", "left: %d %s" % (pid, text))
    print("exits on %s: %s, tool failed %s, %s" % (
        ", ".join(pythons), counts, tool.take_refusals(), faults.counts or "all well"), flush=True)
    return len(faults.counts)
