// Decode and verify attention over the ring, K and V read once per row block, straight from the packed rows.
//
//   out[r, :] = sum_p softmax_p(scale * q[r, :] . K[p, :]) V[p, :]     over the positions p that query r sees
//
// Inputs   q        [Hq, N, D] T            N query rows at positions start .. start + N - 1, RoPE applied; 1 <= N <= 8
//          ring     [Hkv, slots, row]       packed rows (ring.h) of uint, half, bfloat or float; the N new ones written
//          logits   [Hq] float              learned sink logit of each head (gpt-oss); read when LOGITS
//          scale    [1] float
//          params   [16] int                0 start, 1 N, 2 end = start + N, 3 sink, 4 window, 5 block, 6 sliding (0: none),
//                                           7 stored sink, 8 stored window, 9 slots, 10 used slots, 11 splits, 12 first key
// Outputs  out      [Hq * N, splits, D] O   LAST: finished rows (splits == 1, O = T); otherwise sums weighted by exp(s - max), O = float
//          stats    [Hq * N, splits, 2] float  max and sum of each split; attend_merge joins them
// Template T, O types; KT type of a 16-bit ring; BITS 32, 16, 8, 4; D a multiple of 8 in [64, 512]; G = Hq / Hkv;
//          R rows per threadgroup; NS SIMD groups per threadgroup; LAST, LOGITS.
// Grid     (ceil(G * N / R) * NS * 32, Hkv, splits), threadgroup (NS * 32, 1, 1). Row r of a KV head is query head r / N, row r % N.
// Traffic  ring bytes of the used slots x ceil(G * N / R), the blocks after the first mostly from cache; q and out once.
// Memory   threadgroup: 4 * NS * (D + 2) bytes.
//
// A SIMD group takes 32 slots at a time. Scores: the lanes of a key group share a key and split its words. Softmax: lane j
// holds key j. Values: key groups again, so K and V are read by the same lanes in the same way. A tile that no query sees is
// not read; in other tiles rows that no query sees have no weight, whatever they hold.

  using Packed = Row<BITS, D>;
  constexpr int LPK = lanes_per_key(Packed::words, D);
  constexpr int WPL = (Packed::words + LPK - 1) / LPK;  // words of a lane
  constexpr int EPW = Packed::per_word;
  constexpr int EPL = WPL * EPW;
  constexpr int BATCH = 4;  // keys that a lane fetches before it waits
  threadgroup float part[NS * D];
  threadgroup float part_max[NS];
  threadgroup float part_sum[NS];

  const int lane = thread_index_in_simdgroup;
  const int sg = simdgroup_index_in_threadgroup;
  const int tid = thread_index_in_threadgroup;
  const int kv_head = threadgroup_position_in_grid.y;
  const int split = threadgroup_position_in_grid.z;
  const int sub = lane % LPK;
  const int first_key = lane / LPK * LPK;
  const int start = params[0], n_rows = params[1], end = params[2], sink = params[3], window = params[4], block = params[5];
  const int sliding = params[6], stored_sink = params[7], stored_window = params[8], slots = params[9], used = params[10];
  const int splits = params[11], first = params[12];
  const int rows = G * n_rows;
  const int row0 = threadgroup_position_in_grid.x * R;

  float query[R][EPL], sum[R][EPL], top[R], total[R];
  int position_of[R], oldest[R];
  for (int r = 0; r < R; r++) {
    position_of[r] = start + (row0 + r) % n_rows;
    oldest[r] = oldest_recent(position_of[r], window, block);
    top[r] = -3.0e38f;  // finite, so that exp(top - top) is 1 before the first key
    total[r] = 0.0f;
    for (int k = 0; k < WPL; k++) {
      for (int e = 0; e < EPW; e++) {
        const int d = (sub + k * LPK) * EPW + e;
        const bool inside = row0 + r < rows && d < D;
        query[r][k * EPW + e] = inside ? static_cast<float>(q[(static_cast<size_t>(kv_head) * rows + row0 + r) * D + d]) * scale[0] : 0.0f;
        sum[r][k * EPW + e] = 0.0f;
      }
    }
  }

  const device uint* words = reinterpret_cast<const device uint*>(ring) + static_cast<size_t>(kv_head) * slots * Packed::row;
  const int oldest_of_all = oldest_recent(start, window, block);
  const int tiles = (used + LANES - 1) / LANES;
  const int tiles_per_split = (tiles + splits - 1) / splits;
  const int last_tile = min(tiles, (split + 1) * tiles_per_split);
  for (int tile = split * tiles_per_split + sg; tile < last_tile; tile += NS) {
    const int slot = tile * LANES + lane;
    const int position = slot < used ? held_position(slot, end, stored_sink, stored_window) : -1;
    // Some row sees it: a new position its own row, an older one the first row if any.
    const bool live = position >= start || is_visible(start, position, first, sink, oldest_of_all, sliding);
    if (!simd_any(live)) continue;
    const int alive = live ? 1 : 0;
    const device uint* tile_rows = words + static_cast<size_t>(tile) * LANES * Packed::row;
    const int last_key = used - 1 - tile * LANES;  // rows beyond it are not read

    float score[R];
    for (int r = 0; r < R; r++) score[r] = 0.0f;
    for (int i = 0; i < LPK; i += BATCH) {
      Fetched fetched[BATCH][WPL];
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const device uint* packed = tile_rows + min(first_key + i + b, last_key) * Packed::row;
        for (int k = 0; k < WPL; k++) fetched[b][k] = fetch_word<BITS, D>(packed, min(sub + k * LPK, Packed::words - 1));
      }
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        float dot[R];
        for (int r = 0; r < R; r++) dot[r] = 0.0f;
        for (int k = 0; k < WPL; k++) {
          float value[EPW];
          decode_word<KT, BITS>(fetched[b][k], value);
          for (int r = 0; r < R; r++)
            for (int e = 0; e < EPW; e++) dot[r] += query[r][k * EPW + e] * value[e];
        }
        for (int r = 0; r < R; r++) {
          for (int step = LPK / 2; step > 0; step /= 2) dot[r] += simd_shuffle_xor(dot[r], step);
          if (sub == i + b) score[r] = dot[r];
        }
      }
    }

    for (int r = 0; r < R; r++) {
      const bool seen = live && is_visible(position_of[r], position, first, sink, oldest[r], sliding);
      const float newest = max(top[r], simd_max(seen ? score[r] : -3.0e38f));
      const float weight = seen ? metal::exp(score[r] - newest) : 0.0f;
      const float keep = metal::exp(top[r] - newest);
      top[r] = newest;
      total[r] = total[r] * keep + simd_sum(weight);
      score[r] = weight;
      for (int e = 0; e < EPL; e++) sum[r][e] *= keep;
    }

    for (int i = 0; i < LPK; i += BATCH) {
      Fetched fetched[BATCH][WPL];
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const device uint* packed = tile_rows + min(first_key + i + b, last_key) * Packed::row + Packed::half_row;
        for (int k = 0; k < WPL; k++) fetched[b][k] = fetch_word<BITS, D>(packed, min(sub + k * LPK, Packed::words - 1));
      }
#pragma unroll
      for (int b = 0; b < BATCH; b++) {
        const bool present = simd_shuffle(alive, first_key + i + b) != 0;
        float weight[R];
        for (int r = 0; r < R; r++) weight[r] = simd_shuffle(score[r], first_key + i + b);
        for (int k = 0; k < WPL; k++) {
          float value[EPW];
          decode_word<KT, BITS>(fetched[b][k], value);
          for (int e = 0; e < EPW; e++) {
            const float held = present ? value[e] : 0.0f;  // what no query sees may be NaN
            for (int r = 0; r < R; r++) sum[r][k * EPW + e] += weight[r] * held;
          }
        }
      }
    }
  }

  // Join the key groups of a SIMD group, then the SIMD groups, a row at a time: threadgroup memory for one row is enough.
  // Unrolled, so that every index into `sum` is known and it stays in registers.
#pragma unroll
  for (int r = 0; r < R; r++) {
    for (int e = 0; e < EPL; e++)
      for (int step = LPK; step < LANES; step *= 2) sum[r][e] += simd_shuffle_xor(sum[r][e], step);
    if (lane < LPK) {
      for (int k = 0; k < WPL; k++) {
        const int w = sub + k * LPK;
        if (w < Packed::words)
          for (int e = 0; e < EPW; e++) part[sg * D + w * EPW + e] = sum[r][k * EPW + e];
      }
    }
    if (lane == 0) {
      part_max[sg] = top[r];
      part_sum[sg] = total[r];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (row0 + r < rows) {
      const int row = kv_head * rows + row0 + r;
      float all_top = -3.0e38f, all_total = 0.0f;
      for (int g = 0; g < NS; g++) all_top = max(all_top, static_cast<float>(part_max[g]));
      for (int g = 0; g < NS; g++) all_total += part_sum[g] * metal::exp(part_max[g] - all_top);
      float share = 1.0f;
      if (LAST) {
        float divisor = all_total;
        if (LOGITS) {
          const float joint = max(all_top, logits[row / n_rows]);
          share = metal::exp(all_top - joint);
          divisor = all_total * share + metal::exp(logits[row / n_rows] - joint);
        }
        share = divisor > 0.0f ? share / divisor : 0.0f;
      }
      const size_t at = static_cast<size_t>(row) * splits + split;
      for (int d = tid; d < D; d += NS * LANES) {
        float joined = 0.0f;
        for (int g = 0; g < NS; g++) joined += part[g * D + d] * metal::exp(part_max[g] - all_top);
        out[at * D + d] = static_cast<O>(joined * share);
      }
      if (tid < 2) stats[at * 2 + tid] = tid == 0 ? all_top : all_total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
