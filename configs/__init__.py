"""Ready configs, `<detector>_<backbone>_<neck>_<schedule>_<dataset>.py`; `_base_` holds their parts."""
