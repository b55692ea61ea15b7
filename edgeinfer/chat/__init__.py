"""Templates and history: what turns messages into tokens and tokens into text."""
