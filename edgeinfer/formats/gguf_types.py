"""The value and tensor types that a GGUF file may hold (ggml/include/gguf.h and ggml.h, ggml 0.25)."""

from __future__ import annotations

from dataclasses import dataclass

STRING = 8
ARRAY = 9
BOOL = 7

# struct codes of the fixed-size value types, little-endian
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A tensor type: rows come in blocks of `block` values, `block_bytes` each."""

    name: str
    block: int
    block_bytes: int


GGML_TYPES = {
    number: GgmlType(name, block, block_bytes)
    for number, name, block, block_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    )
}
LAST_TYPE = max(GGML_TYPES)

# Numbers that llama.cpp no longer reads, with the type to take in their place; 4 and 5 are Q4_2 and Q4_3.
REMOVED_TYPES = {
    **dict.fromkeys((4, 5), "Q4_0"),
    **dict.fromkeys((31, 32, 33), "Q4_0"),  # Q4_0_4_4, Q4_0_4_8, Q4_0_8_8
    **dict.fromkeys((36, 37, 38), "IQ4_NL"),  # IQ4_NL_4_4, IQ4_NL_4_8, IQ4_NL_8_8
}
HELPER_TYPES = {9: "Q8_1", 15: "Q8_K"}  # of activations; the engine aborts when weights have them

# general.file_type, as llama.cpp numbers it, to the tier's name
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
