"""The Anthropic protocol."""
