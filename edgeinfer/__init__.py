"""edgeinfer runs a language model on the device in front of you."""

__version__ = "0.1.0"
