"""The engines, one folder each, imported only when asked for."""
