"""Does what its input says, one word a line; each is answered by one line.

loop: objects of two sizes, 300 each. deep: an allocation below 5,000 calls. codes: 200 pieces of code that are
compiled, run once and dropped. fork: a child that allocates at each line of its own pipe. child: let it. exec: become
a program that says `executed` and answers each line. exit: end at once.
"""
import os
import sys

sys.setrecursionlimit(20000)
COUNT = 300


def loop():
    for _ in range(COUNT):
        bytes([1]) * 1501
    for _ in range(COUNT):
        bytearray(1777)


def deep(depth):
    if depth == 0:
        return bytearray(98_765)
    return deep(depth - 1)


def codes():
    for i in range(200):
        source = "\n" * i + "def made_%d():\n    bytearray(%d)\nmade_%d()\n" % (i, 20_000 + i, i)
        exec(compile(source, "made_%d.py" % i, "exec"), {})


def serve_child(reader):
    while os.read(reader, 1):
        bytearray(54_321)
        os.write(1, b"child did\n")
    os._exit(0)


loop()
writer = None
os.write(1, b"ready\n")
while True:
    word = os.read(0, 100).decode().strip()
    if not word or word == "exit":
        os._exit(0)
    elif word == "loop":
        loop()
    elif word == "deep":
        deep(5000)
    elif word == "codes":
        codes()
    elif word == "fork":
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            serve_child(reader)
        os.close(reader)
        os.write(1, b"forked %d\n" % child)
        continue
    elif word == "child":
        os.write(writer, b".")
        continue
    elif word == "exec":
        code = "import os\nos.write(1, b'executed\\n')\nwhile os.read(0, 9): os.write(1, b'done\\n')"
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.write(1, b"done\n")
