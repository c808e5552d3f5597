"""Our backbones and detectors inside other frameworks: one module per framework, none is imported unless asked for."""
