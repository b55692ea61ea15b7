// Second pass of attend: joins the splits of each row.
//
//   out[r, :] = sum_s exp(max_s - M) partial[r, s, :] / (sum_s exp(max_s - M) sum_s [+ exp(logit - M)])     M = max of all
//
// Inputs   partial [Hq * N, splits, D] float, stats [Hq * N, splits, 2] float, logits [Hq] float, params as in attend
// Output   out     [Hq, N, D] T
// Template T, D, LOGITS.
// Grid     (Hq * N * 32, 1, 1), threadgroup (32, 1, 1): one SIMD group a row.
// Traffic  4 * splits * (D + 2) bytes a row read, D values written.

  const int lane = thread_index_in_simdgroup;
  const int row = threadgroup_position_in_grid.x;
  const int n_rows = params[1], splits = params[11];
  const size_t first = static_cast<size_t>(row) * splits;

  float top = LOGITS ? static_cast<float>(logits[row / n_rows]) : -3.0e38f;
  for (int s = lane; s < splits; s += 32) top = max(top, stats[(first + s) * 2]);
  top = simd_max(top);
  float total = 0.0f;
  for (int s = lane; s < splits; s += 32) total += stats[(first + s) * 2 + 1] * metal::exp(stats[(first + s) * 2] - top);
  total = simd_sum(total);
  if (LOGITS) total += metal::exp(logits[row / n_rows] - top);
  const float share = total > 0.0f ? 1.0f / total : 0.0f;
  for (int d = lane; d < D; d += 32) {
    float joined = 0.0f;
    for (int s = 0; s < splits; s++) joined += partial[(first + s) * D + d] * metal::exp(stats[(first + s) * 2] - top);
    out[static_cast<size_t>(row) * D + d] = static_cast<T>(joined * share);
  }
