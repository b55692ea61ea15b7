"""Writes the model files that the benchmarks measure, and the embedded demonstration model."""
