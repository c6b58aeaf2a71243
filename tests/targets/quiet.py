"""Does the same small work at each `go`, answered by `done`, and between two of them nothing at all.

Several threads, each blocked in another call. Everything that the work needs is loaded and bound before the
first `ready`, so that whatever differs between two snapshots of this process came from outside.
"""
import json
import os
import select
import ssl  # noqa: F401  (libraries of some size, with slots of every kind)
import sqlite3
import threading
import time
import zlib

pipe_read, pipe_write = os.pipe()
for target in (
    lambda: time.sleep(3600),
    lambda: select.select([pipe_read], [], []),
    lambda: os.read(pipe_read, 1),
):
    threading.Thread(target=target, daemon=True).start()


def work():
    text = json.dumps({"key%d" % i: list(range(i)) for i in range(60)})
    assert zlib.crc32(zlib.decompress(zlib.compress(text.encode() * 20)))
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (a)")
        connection.executemany("insert into t values (?)", [(i,) for i in range(2000)])
        assert connection.execute("select count(*) from t").fetchone() == (2000,)
    kept = [bytearray(10_000 + i) for i in range(300)]
    del kept


for _ in range(5):
    work()
os.write(1, b"ready\n")
while os.read(0, 100):
    work()
    os.write(1, b"done\n")
