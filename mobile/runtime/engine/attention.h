// Attention of a few queries over listed slots of a ring: the arithmetic, without ExecuTorch.
//
// The result for one query depends on that query and its keys only, bit for bit: every product and every sum is formed
// in the same order, however many queries run together. So rows of a verify equal plain ones.
#pragma once

#include <cstdint>

#include "storage.h"

namespace edgeinfer::engine {

struct AttentionTile {
  const float* queries;  // [n_queries, head_dim], turned by RoPE and scaled
  const int* n_keys;     // [n_queries]: query i sees the first n_keys[i] of `slots`, not fewer than the query before
  int n_queries;
  const int32_t* slots;  // [n_slots] by position; the last one is repeated to a multiple of kLanes
  int n_slots;
  KvType kv_type;
  const char* keys;  // rows of this head: slot 0, 1 ...
  const char* values;
  int head_dim;           // a multiple of kLanes
  float* scores;          // scratch [n_queries, score_stride]
  int64_t score_stride;   // at least n_slots
  float* const* outputs;  // [n_queries]: head_dim floats each
};

using AttendTile = void (*)(const AttentionTile&);

void attend_tile_portable(const AttentionTile& tile);
#if defined(__x86_64__)
void attend_tile_avx2(const AttentionTile& tile);
#endif

// The fastest that this processor runs.
AttendTile attend_tile();

}  // namespace edgeinfer::engine
