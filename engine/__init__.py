"""Engine: train, evaluate and save models from a config.

`config.py` reads and checks a config, `task.py` is what the engine asks of a task and `detection.py` the first task,
`trainer.py` is the loop, `evaluate.py` the evaluation, `checkpoint.py` the files and `runs.py` the folders of runs.
`extractor.py` builds backbone and neck of a run to extract features.
"""
