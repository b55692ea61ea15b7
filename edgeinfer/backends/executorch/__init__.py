"""ExecuTorch on the processor: exported programs, run by a small C++ engine. Importing this imports no engine."""
