"""What `tools/bench.py` measures: the works and their contenders (`works.py`, `networks.py`, `data.py`), the libraries
beside us (`peers.py`), timing and memory (`measure.py`), and cost as work grows (`growth.py`).
"""
