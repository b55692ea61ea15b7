"""Files: names, download, checks, the Hugging Face cache."""
