"""Makes catalog entries from model files and folders, by their headers. Nothing is loaded or run here."""
