"""`models.toml`: models, their shapes and their files."""
