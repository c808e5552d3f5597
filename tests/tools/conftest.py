from tiny_runs import here, shapes, without_pictures  # noqa: F401
