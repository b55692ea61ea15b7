"""The engine side: one thread that runs the answers of several conversations, step by step."""
