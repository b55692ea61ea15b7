"""Taught drafts on llama.cpp: the draft's layer is a model of one layer, fed with embeddings."""
