// Quantize new K and V rows into packed ring rows (ring.h), so that a row enters the ring by one slice update.
//
//   scale = (max - min) / (2^BITS - 1), bias = min, both rounded to half; code = round((x - bias) / scale), ties to even
//
// Inputs   k, v  [Hkv, N, D] T
// Output   rows  [Hkv, N, row] uint
// Template T type; BITS 8 or 4; D a multiple of 8, its groups (ceil(D / 64) of equal size) whole words.
// Grid     (Hkv * N * 2 * groups * 32, 1, 1), threadgroup (32, 1, 1): one SIMD group packs one group of one K or V row.
// Traffic  2 * D * sizeof(T) bytes a row read, 4 * row bytes written.
// Limit    |x| <= 65504, the range of half. A group of equal values has scale 0 and codes 0.

  using Packed = Row<BITS, D>;
  constexpr int EPW = Packed::per_word;
  constexpr int WPG = Packed::group_words;  // at most 16, so every word has its lane
  const int lane = thread_index_in_simdgroup;
  const int unit = threadgroup_position_in_grid.x;
  const int part = unit % Packed::groups;
  const int is_v = unit / Packed::groups % 2;
  const size_t row = unit / Packed::groups / 2;
  const int word = part * WPG + lane;

  float x[EPW];
  float low = INFINITY, high = -INFINITY;
  if (lane < WPG) {
    for (int e = 0; e < EPW; e++) {
      const size_t at = row * D + word * EPW + e;
      x[e] = is_v != 0 ? static_cast<float>(v[at]) : static_cast<float>(k[at]);
      low = min(low, x[e]);
      high = max(high, x[e]);
    }
  }
  low = simd_min(low);
  high = simd_max(high);
  const half bias = static_cast<half>(low);
  const half scale = static_cast<half>((high - low) / static_cast<float>((1 << BITS) - 1));
  const float step = static_cast<float>(scale);
  const size_t at = row * Packed::row + is_v * Packed::half_row;
  if (lane < WPG) {
    uint codes = 0;
    for (int e = 0; e < EPW; e++) {
      const float code = step > 0.0f ? metal::rint((x[e] - static_cast<float>(bias)) / step) : 0.0f;
      codes |= static_cast<uint>(metal::clamp(code, 0.0f, static_cast<float>((1 << BITS) - 1))) << (e * BITS);
    }
    rows[at + word] = codes;
  }
  if (lane == 0)
    rows[at + Packed::words + part] = static_cast<uint>(as_type<ushort>(scale)) | (static_cast<uint>(as_type<ushort>(bias)) << 16);
