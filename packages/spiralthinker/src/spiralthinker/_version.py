"""The version of the whole house; the four distributions move in lock-step."""

__version__ = "0.1.0"
