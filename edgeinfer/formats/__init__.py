"""Model files as data from a stranger: read and checked in Python before an engine sees them."""
