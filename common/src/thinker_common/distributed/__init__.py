"""Several processes that train as one: launch settings, DeepSpeed presets, the launcher and its supervisor, ranks.

Import the modules; nothing is loaded here. Those that the launching process needs import no torch.
"""
