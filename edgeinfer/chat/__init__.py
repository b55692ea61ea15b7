"""Templates and history: turns messages into tokens, and tokens into text."""
