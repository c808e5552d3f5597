"""The engine: from a config to a trained, evaluated and saved detector.

`config.py` reads and checks what the user asked for, `data.py` opens the datasets, `train.py` is the loop,
`evaluate.py` the scores, `checkpoint.py` what a run leaves and starts from, `picture.py` the prediction grid.
"""
