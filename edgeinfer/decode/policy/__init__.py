"""When to draft, with what, and how far. README.md has the formula."""
