"""Early exit on llama.cpp, by running parts of its own graph in place. README.md explains how, and what can break."""
