// Second pass of head_top1: joins the parts of each row. The smallest id wins a tie.
//
// Inputs   best, sums [N, parts] float, ids [N, parts] int, sizes as in head_top1
// Outputs  token [N] int; top [N] float, its logit; share [N] float, its probability 1 / sum_v exp(logit[v] - top)
//          A row without one finite logit (NaN in the model) gives token 0 and share 0.
// Grid     (N * 32, 1, 1), threadgroup (32, 1, 1): one SIMD group a row.
// Traffic  12 bytes a part.

  const int lane = thread_index_in_simdgroup;
  const int row = threadgroup_position_in_grid.x;
  const int parts = sizes[2];
  const size_t first = static_cast<size_t>(row) * parts;

  float mine = -INFINITY;
  int mine_id = 0x7FFFFFFF;
  for (int p = lane; p < parts; p += 32) {
    const float other = best[first + p];
    const int other_id = ids[first + p];
    if (other > mine || (other == mine && other_id < mine_id)) {
      mine = other;
      mine_id = other_id;
    }
  }
  const float all_top = simd_max(mine);
  const int all_id = simd_min(mine == all_top ? mine_id : 0x7FFFFFFF);
  float sum = 0.0f;
  for (int p = lane; p < parts; p += 32)
    if (best[first + p] > -INFINITY) sum += sums[first + p] * metal::exp(best[first + p] - all_top);
  sum = simd_sum(sum);
  if (lane == 0) {
    token[row] = all_id < sizes[0] ? all_id : 0;
    top[row] = all_top;
    share[row] = sum > 0.0f ? 1.0f / sum : 0.0f;
  }
