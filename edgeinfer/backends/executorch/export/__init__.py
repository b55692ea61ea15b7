"""From a GGUF file or a Hugging Face folder to one ExecuTorch program. Needs the extra `[export]`, no compiler."""
