from tiny_runs import here, shapes  # noqa: F401
