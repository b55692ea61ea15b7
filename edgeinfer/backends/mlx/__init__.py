"""MLX on Apple unified memory, with the Metal kernels of this project."""
