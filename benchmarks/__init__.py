"""Speed and memory beside other libraries. `tools/bench.py` runs it; it is not part of the wheel.

`networks.py` and `data.py` define the benchmarks, `peers.py` builds the networks of other libraries, and `measure.py`
compares, times and measures memory.
"""
