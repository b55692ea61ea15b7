"""F16 rows on llama.cpp that round like single ones, and cost less than ggml's own: see README.md."""
