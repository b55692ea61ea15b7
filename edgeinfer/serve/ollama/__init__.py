"""The Ollama protocol."""
