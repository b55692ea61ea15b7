"""Measurements that hold this repository to its claims. `python -m benchmarks` lists them; not part of the wheel."""
