// Greedy token and its probability from the last hidden state, without writing the logits. First pass: parts of the vocabulary.
//
//   y = x * rsqrt(mean(x^2) + eps) * w   (NORM; rounded to T)      logit[v] = y . W[v]      (CAP: cap * tanh(logit / cap))
//   per part: max logit, its smallest id, sum of exp(logit - max)
//
// Inputs   x       [N, D] T
//          weight  [D] T              of the RMS norm; read when NORM
//          table   [V, D * BITS / 32] uint   affine codes, or 16-bit T two to a word
//          scales, biases [V, D / GS] T      read when BITS < 16
//          numbers [2] float          eps, cap
//          sizes   [3] int            0 V, 1 ids per part (a multiple of NS * IDS), 2 parts
// Outputs  best_out, sums_out [N, parts] float, ids_out [N, parts] int
// Template T; HT type of a 16-bit table; D; BITS 16, 8, 6, 4; GS; M rows of x per threadgroup (N is a multiple of M); NS SIMD groups; IDS ids a SIMD
//          group takes at once, <= 32; NORM, CAP.
// Grid     (parts * NS * 32, N / M, 1), threadgroup (NS * 32, 1, 1).
// Traffic  the table, scales and biases once per M rows of x; 12 bytes a part and row written. Logits would cost 2 * V * 4 bytes a row.
// Memory   threadgroup: M * D * sizeof(T) + NS * (4 * M + 12) bytes, at most 32 KiB.

  constexpr int VALUES = Unit<BITS>::values;
  constexpr int WORDS = Unit<BITS>::words;
  constexpr int UNITS = D / VALUES;
  threadgroup T normed[M * D];
  threadgroup float squares[NS * M];
  threadgroup float part_best[NS];
  threadgroup float part_sum[NS];
  threadgroup int part_id[NS];
  const int lane = thread_index_in_simdgroup;
  const int sg = simdgroup_index_in_threadgroup;
  const int tid = thread_index_in_threadgroup;
  const int part = threadgroup_position_in_grid.x;
  const int row0 = threadgroup_position_in_grid.y * M;
  const int n_ids = sizes[0], chunk = sizes[1], parts = sizes[2];

  float inverse[M];
  for (int m = 0; m < M; m++) {
    inverse[m] = 1.0f;
    if (NORM) {
      float square = 0.0f;
      for (int d = tid; d < D; d += NS * 32) {
        const float value = static_cast<float>(x[static_cast<size_t>(row0 + m) * D + d]);
        square += value * value;
      }
      square = simd_sum(square);
      if (lane == 0) squares[sg * M + m] = square;
    }
  }
  if (NORM) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int m = 0; m < M; m++) {
      float square = 0.0f;
      for (int g = 0; g < NS; g++) square += squares[g * M + m];
      inverse[m] = metal::precise::rsqrt(square / D + numbers[0]);
    }
  }
  for (int m = 0; m < M; m++) {
    for (int d = tid; d < D; d += NS * 32) {
      const float value = static_cast<float>(x[static_cast<size_t>(row0 + m) * D + d]);
      normed[m * D + d] = static_cast<T>(NORM ? value * inverse[m] * static_cast<float>(weight[d]) : value);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // Lane j keeps what id first + j gave; ids rise within a lane, so `>` alone keeps the smallest.
  float best[M], total[M];
  int id[M];
  for (int m = 0; m < M; m++) {
    best[m] = -INFINITY;
    total[m] = 0.0f;
    id[m] = 0x7FFFFFFF;
  }
  const int last = min(n_ids, (part + 1) * chunk);
  for (int first = part * chunk + sg * IDS; first < last; first += NS * IDS) {
    float dot[M][IDS];
    for (int m = 0; m < M; m++)
      for (int j = 0; j < IDS; j++) dot[m][j] = 0.0f;
    for (int u = lane; u < UNITS; u += 32) {
      uint fetched[IDS][WORDS];
      float scale[IDS], bias[IDS];
      for (int j = 0; j < IDS; j++) {
        const size_t table_row = min(first + j, last - 1);
        for (int i = 0; i < WORDS; i++) fetched[j][i] = table[(table_row * UNITS + u) * WORDS + i];
        if (BITS < 16) {
          const size_t group = table_row * (D / GS) + u * VALUES / GS;
          scale[j] = static_cast<float>(scales[group]);
          bias[j] = static_cast<float>(biases[group]);
        }
      }
      float state[M][VALUES], state_sum[M];
      for (int m = 0; m < M; m++) {
        state_sum[m] = 0.0f;
        for (int e = 0; e < VALUES; e++) {
          state[m][e] = static_cast<float>(normed[m * D + u * VALUES + e]);
          state_sum[m] += state[m][e];
        }
      }
      for (int j = 0; j < IDS; j++) {
        float value[VALUES];
        decode_unit<HT, BITS>(fetched[j], value);
        for (int m = 0; m < M; m++) {
          float product = 0.0f;
          for (int e = 0; e < VALUES; e++) product += state[m][e] * value[e];
          dot[m][j] += BITS < 16 ? scale[j] * product + bias[j] * state_sum[m] : product;
        }
      }
    }
    for (int m = 0; m < M; m++) {
      float mine = -INFINITY;
      for (int j = 0; j < IDS; j++) {
        const float logit = simd_sum(dot[m][j]);
        if (lane == j) mine = logit;
      }
      if (lane < IDS && first + lane < last) {
        if (CAP) mine = numbers[1] * metal::precise::tanh(mine / numbers[1]);
        if (mine > best[m]) {
          total[m] = total[m] * metal::exp(best[m] - mine) + 1.0f;
          best[m] = mine;
          id[m] = first + lane;
        } else if (best[m] > -INFINITY) {
          total[m] += metal::exp(mine - best[m]);
        }
      }
    }
  }

  for (int m = 0; m < M; m++) {
    const float top = simd_max(best[m]);
    const int top_id = simd_min(best[m] == top ? id[m] : 0x7FFFFFFF);
    const float sum = simd_sum(best[m] > -INFINITY ? total[m] * metal::exp(best[m] - top) : 0.0f);
    if (lane == 0) {
      part_best[sg] = top;
      part_sum[sg] = sum;
      part_id[sg] = top_id;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (tid == 0) {
      float all_top = -INFINITY, all_sum = 0.0f;
      int all_id = 0x7FFFFFFF;
      for (int g = 0; g < NS; g++) all_top = max(all_top, static_cast<float>(part_best[g]));
      for (int g = 0; g < NS; g++) {
        if (part_best[g] > -INFINITY) all_sum += part_sum[g] * metal::exp(part_best[g] - all_top);
        if (part_best[g] == all_top) all_id = min(all_id, static_cast<int>(part_id[g]));
      }
      const size_t at = static_cast<size_t>(row0 + m) * parts + part;
      best_out[at] = all_top;
      sums_out[at] = all_sum;
      ids_out[at] = all_id;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
