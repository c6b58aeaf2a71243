"""What became of a target of scripts/storm that hangs or died."""
import glob
import os
import resource
import shutil
import subprocess

GDB = ["gdb", "-batch", "-nx", "-ex", "set pagination off"]


def permit_core():
    """In a target before it starts: a core is the only witness of a death."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def gdb(*arguments):
    if not shutil.which("gdb"):
        return ""
    done = subprocess.run(GDB + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
    return "\n" + done.stdout.decode(errors="replace")[-6000:]


def post_mortem(python, directory):
    """Where a dead target's threads were and what they were about to execute, if it left a core."""
    said = ""
    for core in glob.glob(directory + "/core*"):
        said += gdb("-ex", "info registers", "-ex", "x/12i $rip-16", "-ex", "x/8gx $rsp", "-ex", "thread apply all bt 12",
                    os.path.realpath(python), core)
        os.remove(core)
    return said


def describe(pid):
    """What each thread of a process waits for."""
    said = []
    for tid in os.listdir("/proc/%d/task" % pid):
        def text(name):
            try:
                with open("/proc/%d/task/%s/%s" % (pid, tid, name)) as file:
                    return file.read().strip()
            except OSError as error:
                return repr(error)
        said.append("%s %s %s %s" % (tid, text("wchan"), text("syscall"), text("stat").split(")")[-1][:3]))
    return "; ".join(said) + gdb("-p", str(pid), "-ex", "thread apply all bt 12", "-ex", "x/6i $pc")
