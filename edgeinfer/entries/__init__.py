"""Catalog entries made from model files: what a file or a folder says of itself. Nothing is loaded or run here."""
