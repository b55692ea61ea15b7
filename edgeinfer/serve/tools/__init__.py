"""Tools: how models write calls, and how calls are read, constrained and shown to a template."""
