// Reads launches from a file, runs them, writes the outputs. Every buffer is a malloc of its exact size, so that a
// sanitizer sees the first byte beyond it; outputs start as 0xFF.
//
// File: u32 n_launches; each: u32 grid[3], threadgroup[3], order, seed, n_buffers; each buffer: u32 kind (0 input, 1 output),
// u64 n_bytes, bytes of an input.
#pragma once

#include "metal.h"

namespace sim {

inline void read_exactly(FILE* file, void* to, size_t n) {
  if (n && fread(to, 1, n, file) != n) fail("request file is short");
}

template <typename T>
T read_one(FILE* file) {
  T value;
  read_exactly(file, &value, sizeof value);
  return value;
}

inline int serve(int argc, char** argv, void** buffers, void (*body)()) {
  if (argc != 3) fail("usage: %s REQUEST ANSWER", argv[0]);
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (!in || !out) fail("cannot open %s or %s", argv[1], argv[2]);
  const uint32_t n_launches = read_one<uint32_t>(in);
  for (uint32_t launch = 0; launch < n_launches; launch++) {
    const Dim3 grid = read_one<Dim3>(in), group = read_one<Dim3>(in);
    const uint32_t order = read_one<uint32_t>(in), seed = read_one<uint32_t>(in), n = read_one<uint32_t>(in);
    std::vector<uint32_t> kinds(n);
    std::vector<uint64_t> sizes(n);
    for (uint32_t i = 0; i < n; i++) {
      kinds[i] = read_one<uint32_t>(in);
      sizes[i] = read_one<uint64_t>(in);
      buffers[i] = malloc(sizes[i]);
      if (kinds[i] == 0)
        read_exactly(in, buffers[i], sizes[i]);
      else
        memset(buffers[i], 0xFF, sizes[i]);
    }
    run(grid, group, static_cast<Order>(order), seed, body);
    for (uint32_t i = 0; i < n; i++) {
      if (kinds[i] == 1) fwrite(buffers[i], 1, sizes[i], out);
      free(buffers[i]);
    }
  }
  fclose(in);
  return fclose(out);
}

}  // namespace sim
