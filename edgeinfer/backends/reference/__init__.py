"""The oracle: a Llama-architecture model in NumPy float32, and the template for other backends."""
