"""The HTTP parts that all protocols share: reading a body, errors, streams, and access checks."""
