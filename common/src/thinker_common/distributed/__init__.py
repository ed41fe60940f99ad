"""Several processes that train as one: launch settings, DeepSpeed presets, the launcher and its supervisor, ranks.

Import the modules; nothing is loaded here. Only `ranks` imports torch when it is imported itself.
"""
