# Included by CMake at llama.cpp's `project()`: leaves out llama-common, which edgeinfer does not use and which takes
# most of the build. llama-cpp-python forces the cache variable on; a plain variable goes before it.
set(LLAMA_BUILD_COMMON OFF)
