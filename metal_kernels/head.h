// How a language-model head's row is read: a unit is the fewest whole 32-bit words that hold whole values.
//   16 bits: 1 word, 2 values (HT);  8: 1 word, 4;  6: 3 words, 16;  4: 1 word, 8.   Affine codes as mlx.core.quantize packs them.

template <int BITS>
struct Unit {
  static constant constexpr int words = BITS == 6 ? 3 : 1;
  static constant constexpr int values = 32 * words / BITS;
};

template <typename HT, int BITS>
inline void load_unit(const device uint* words, thread float* values) {
  uint w[Unit<BITS>::words];
  for (int i = 0; i < Unit<BITS>::words; i++) w[i] = words[i];
  for (int i = 0; i < Unit<BITS>::values; i++) {
    const int bit = i * BITS, word = bit / 32, shift = bit % 32;
    uint code = w[word] >> shift;
    if (shift + BITS > 32) code |= w[word + 1] << (32 - shift);
    code &= (1u << BITS) - 1u;
    values[i] = BITS == 16 ? static_cast<float>(as_type<HT>(static_cast<ushort>(code))) : static_cast<float>(code);
  }
}
