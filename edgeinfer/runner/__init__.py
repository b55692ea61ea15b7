"""Opens a Plan: owns and closes the model, the cache, the decoder and the tokenizer."""
