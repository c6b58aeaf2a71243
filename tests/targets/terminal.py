"""Runs a command as a shell would, as a job in a terminal of its own, presses keys there, and says what became of it."""
import os
import pty
import signal
import sys

command = sys.argv[1:]


def shell():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(command[0], command)
    _, status = os.waitpid(job, os.WUNTRACED)
    print("stopped" if os.WIFSTOPPED(status) else "not stopped: %d" % status, flush=True)
    os.killpg(job, signal.SIGCONT)
    _, status = os.waitpid(job, 0)
    print("ended", os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), flush=True)
    os._exit(0)


pid, terminal = pty.fork()
if pid == 0:
    shell()

seen = b""


def until(text):
    global seen
    while text not in seen:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            data = b""
        if not data:
            sys.exit("ended without %r: %r" % (text, seen))
        seen += data


until(b"waiting")
os.write(terminal, b"\x03")
until(b"heard SIGINT")
os.write(terminal, b"\x1a")
until(b"stopped")
os.write(terminal, b"bye\n")
until(b"got bye SIGINT\r\n")
until(b"ended 0")
os.waitpid(pid, 0)
print("as it should be")
