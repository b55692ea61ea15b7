"""Before NumPy is imported: one BLAS thread. Spinning threads are many times slower where tests share cores."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
