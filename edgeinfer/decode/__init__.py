"""The one loop that emits tokens, its sampler, drafters and controller."""
