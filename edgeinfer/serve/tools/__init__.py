"""Tools: how models write calls, and how calls are read, constrained and written by a template."""
