"""A job that works on frames for ever, and says how many milliseconds each piece took."""
import time

import leak
import numpy as np
import pandas as pd

rng = np.random.default_rng(1)
while True:
    began = time.perf_counter()
    frame = pd.DataFrame({"key": rng.integers(0, 50, 20_000), "value": rng.random(20_000)})
    frame["square"] = frame["value"] ** 2
    grouped = frame.groupby("key").agg({"value": "mean", "square": "sum"})
    assert len(grouped) == 50
    leak.remember("piece")
    print("%.3f" % ((time.perf_counter() - began) * 1e3), flush=True)
    time.sleep(0.01)
