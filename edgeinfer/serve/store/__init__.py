"""Beginnings of prompts whose K and V are kept outside the caches, in memory and on disk: see README.md."""
