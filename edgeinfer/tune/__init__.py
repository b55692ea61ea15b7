"""Teaches a small draft to a model, from text that the model writes itself. Needs torch: the extra `[tune]`.

`conversations` writes the text, `teach` teaches, `judge` measures agreement on held-out text, `expect` turns agreement
and measured row costs into an expected speed-up, `job` runs all of it and resumes after an interruption.
"""
