// How a row of a matrix is read (head_top1, rows_matmul): a lane takes a unit of whole 32-bit words at once, enough values to be worth
// the scale and bias of their group.
//   16 bits: 4 words, 8 values (HT);  8: 2 words, 8;  6: 3 words, 16;  4: 1 word, 8.   Affine codes as mlx.core.quantize packs them.

template <int BITS>
struct Unit {
  static constant constexpr int words = BITS == 6 ? 3 : BITS / 4;
  static constant constexpr int values = 32 * words / BITS;
};

// values[0 .. Unit::values) of a unit: the value at 16 bits, the code below.
template <typename HT, int BITS>
inline void decode_unit(const thread uint* w, thread float* values) {
  for (int i = 0; i < Unit<BITS>::values; i++) {
    const int bit = i * BITS, word = bit / 32, shift = bit % 32;
    uint code = w[word] >> shift;
    if (shift + BITS > 32) code |= w[word + 1] << (32 - shift);
    code &= (1u << BITS) - 1u;
    values[i] = BITS == 16 ? static_cast<float>(as_type<HT>(static_cast<ushort>(code))) : static_cast<float>(code);
  }
}
