"""The Python API of the verbs: a config becomes objects and runs. Only wiring; the algorithms are below."""
