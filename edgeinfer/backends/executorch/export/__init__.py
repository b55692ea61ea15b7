"""From a GGUF file or a Hugging Face folder to one ExecuTorch program. Needs the extra `[export]`, no compiler."""

from __future__ import annotations

from typing import Final

SOURCE_BACKEND: Final = "gguf"  # of a catalog model, the files of this backend are exported
