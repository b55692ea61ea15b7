# Included by CMake at llama.cpp's `project()`: leaves out llama-common, which edgeinfer does not use and which takes
# most of the build. llama-cpp-python forces the cache variable on; a plain variable goes before it.
set(LLAMA_BUILD_COMMON OFF)

# GCC before 12.4 and 13.3 leaves most of an AMX tile's configuration unwritten, so that the first product of a quantized
# matrix is a segmentation fault. Other compilers leave AMX out, too: edgeinfer's own kernels would not be tested beside it.
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
