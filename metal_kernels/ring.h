// What the kernels know of a ring: how a packed row is laid out, which position a slot holds, who sees it.
//
// A row is made of 32-bit words, K first, V after it, each as
//   32 bits  D floats;                16 bits  D halves or bfloats, two to a word;
//   8, 4     D codes, 4 or 8 to a word, then one word per group: half scale in the low bits, half bias in the high ones.
// The lowest bits of a word come first. A quantized row has ceil(D / 64) groups of equal size; value = code * scale + bias.

constant constexpr int LANES = 32;

template <int BITS, int D>
struct Row {
  static constant constexpr int per_word = 32 / BITS;
  static constant constexpr int words = D / per_word;
  static constant constexpr int groups = BITS < 16 ? (D + 63) / 64 : 0;
  static constant constexpr int group_words = BITS < 16 ? words / ((D + 63) / 64) : words;
  static constant constexpr int half_row = words + groups;  // K, or V
  static constant constexpr int row = 2 * half_row;
};

// Lanes that share one key: the largest power of two that has a word for each, at most 16 for short heads, so that a
// reduction takes few steps and a lane's part of K, V and the output stays in registers.
constexpr int lanes_per_key(int words, int head_dim) {
  return words >= 32 && head_dim > 128 ? 32 : words >= 16 ? 16 : 8;
}

inline half low_half(uint word) { return as_type<half>(static_cast<ushort>(word & 0xFFFFu)); }
inline half high_half(uint word) { return as_type<half>(static_cast<ushort>(word >> 16)); }

// A word of a packed K or V, and the scale and bias of its group where it holds codes. Fetching and decoding are apart, so
// that several fetches are under way before the first is waited for.
struct Fetched {
  uint word;
  uint affine;
};

template <int BITS, int D>
inline Fetched fetch_word(const device uint* packed, int w) {
  Fetched fetched;
  fetched.word = packed[w];
  fetched.affine = BITS < 16 ? packed[Row<BITS, D>::words + w / Row<BITS, D>::group_words] : 0;
  return fetched;
}

// values[0 .. per_word) of a fetched word.
template <typename KT, int BITS>
inline void decode_word(Fetched fetched, thread float* values) {
  const uint word = fetched.word;
  if (BITS == 32) {
    values[0] = as_type<float>(word);
  } else if (BITS == 16) {
    for (int i = 0; i < 2; i++) values[i] = static_cast<float>(as_type<KT>(static_cast<ushort>((word >> (16 * i)) & 0xFFFFu)));
  } else {
    const float scale = static_cast<float>(low_half(fetched.affine)), bias = static_cast<float>(high_half(fetched.affine));
    for (int i = 0; i < 32 / BITS; i++)
      values[i] = static_cast<float>((word >> (i * BITS)) & ((1u << (BITS & 15)) - 1u)) * scale + bias;
  }
}

// The newest position < `end` that `slot` of a ring of sink + window slots holds, for a slot that has been used; -1 where it
// holds none (the first `sink` slots of the ring's first lap).
inline int held_position(int slot, int end, int sink, int window) {
  if (slot < sink) return slot < end ? slot : -1;
  const int position = end - 1 - (end - 1 - (slot - sink)) % window;
  return position >= sink ? position : -1;
}

// WindowPolicy.oldest: eviction takes whole blocks.
inline int oldest_recent(int query, int window, int block) {
  const int oldest = query / block * block - (window - block);
  return oldest > 0 ? oldest : 0;
}

// WindowPolicy.visible for a query whose `oldest` is known, and the model's own sliding window where `sliding` > 0. No key
// lies before the position `first`, which is 0 or more.
inline bool is_visible(int query, int key, int first, int sink, int oldest, int sliding) {
  if (key < first || key > query) return false;
  if (sliding > 0 && query - key >= sliding) return false;
  return key < sink || key >= oldest;
}
