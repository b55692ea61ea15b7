// A few rows times a quantized matrix. Each group of codes is read once for all rows.
//
//   y[m][n] = sum over k of x[m][k] * (scale[n][k / GS] * code[n][k] + bias[n][k / GS])
//
// Inputs   x       [M, K] T
//          table   [N, K * BITS / 32] uint   affine codes as mlx.core.quantize packs them
//          scales, biases [N, K / GS]
//          sizes   [2] int            0 K (a multiple of GS), 1 N
// Outputs  y       [M, N] T
// Template T; BITS 8, 4; GS; M; NS SIMD groups; OUTS outputs that a SIMD group computes at once, M * OUTS <= 32;
//          TILE values of each row that are in threadgroup memory at once, a multiple of 8.
// Grid     (ceil(N / (NS * OUTS)) * NS * 32, 1, 1), threadgroup (NS * 32, 1, 1).
// Traffic  table, scales and biases once; x once per threadgroup, after the first from cache; y once.
// Memory   threadgroup: M * TILE * sizeof(T) bytes.

  constexpr int VALUES = Unit<BITS>::values;
  constexpr int WORDS = Unit<BITS>::words;
  threadgroup T tile[M * TILE];
  const int lane = thread_index_in_simdgroup;
  const int sg = simdgroup_index_in_threadgroup;
  const int tid = thread_index_in_threadgroup;
  const int width = sizes[0], n_outs = sizes[1];
  const int units = width / VALUES;
  const int first = (static_cast<int>(threadgroup_position_in_grid.x) * NS + sg) * OUTS;

  float dot[M][OUTS];
  for (int m = 0; m < M; m++)
    for (int j = 0; j < OUTS; j++) dot[m][j] = 0.0f;

  for (int start = 0; start < width; start += TILE) {
    const int held = min(TILE, width - start);
    for (int m = 0; m < M; m++)
      for (int k = tid; k < held; k += NS * 32) tile[m * TILE + k] = x[static_cast<size_t>(m) * width + start + k];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int u = lane; u < held / VALUES; u += 32) {
      const int unit = start / VALUES + u;
      float value[OUTS][VALUES], scale[OUTS], bias[OUTS];
      for (int j = 0; j < OUTS; j++) {
        const size_t row = min(first + j, n_outs - 1);  // outputs beyond the last are computed and not written
        uint fetched[WORDS];
        for (int i = 0; i < WORDS; i++) fetched[i] = table[(row * units + unit) * WORDS + i];
        const size_t group = row * (width / GS) + unit * VALUES / GS;
        scale[j] = static_cast<float>(scales[group]);
        bias[j] = static_cast<float>(biases[group]);
        decode_unit<half, BITS>(fetched, value[j]);
      }
      for (int m = 0; m < M; m++) {
        float state[VALUES], state_sum = 0.0f;
        for (int e = 0; e < VALUES; e++) {
          state[e] = static_cast<float>(tile[m * TILE + u * VALUES + e]);
          state_sum += state[e];
        }
        for (int j = 0; j < OUTS; j++) {
          float product = 0.0f;
          for (int e = 0; e < VALUES; e++) product += state[e] * value[j][e];
          dot[m][j] += scale[j] * product + bias[j] * state_sum;
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  // Lane m * OUTS + j keeps output first + j of row m.
  float mine = 0.0f;
  for (int m = 0; m < M; m++)
    for (int j = 0; j < OUTS; j++) {
      const float total = simd_sum(dot[m][j]);
      if (lane == m * OUTS + j) mine = total;
    }
  const int row = lane / OUTS, out = first + lane % OUTS;
  if (row < M && out < n_outs) y[static_cast<size_t>(row) * n_outs + out] = static_cast<T>(mine);
