"""Checks syntax and address spaces: clang reads the generated Metal source with real address spaces, which g++ lacks.

A pointer without an address space is thread-private (an error in Metal; here an error once it meets device,
constant or threadgroup memory). The functions of the Metal library are declared, not defined.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tests.metal.simulator import MetalSource

PRELUDE = """
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define INFINITY __builtin_inff()
typedef unsigned int uint; typedef unsigned short ushort; typedef unsigned char uchar; typedef unsigned long size_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef unsigned short uint16_t;
typedef _Float16 half; typedef half float16_t; typedef __bf16 bfloat16_t;
struct uint3 { uint x, y, z; };
enum class mem_flags { mem_none, mem_threadgroup, mem_device };
void threadgroup_barrier(mem_flags); void simdgroup_barrier(mem_flags);
template <typename To, typename From> To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes");
  return To();
}
namespace metal {
float exp(float); float tanh(float); float rsqrt(float); float rint(float); float floor(float);
namespace precise { float exp(float); float tanh(float); float rsqrt(float); }
float max(float, float); int max(int, int); uint max(uint, uint);
float min(float, float); int min(int, int); uint min(uint, uint);
float clamp(float, float, float);
float simd_sum(float); int simd_sum(int);
float simd_max(float); int simd_max(int);
float simd_min(float); int simd_min(int);
bool simd_any(bool); bool simd_all(bool);
float simd_shuffle(float, ushort); int simd_shuffle(int, ushort);
float simd_shuffle_xor(float, ushort); int simd_shuffle_xor(int, ushort);
}
using namespace metal;
"""


@cache
def libclang() -> Any:
    """The module clang.cindex with its library, or None."""
    try:
        from clang import cindex

        cindex.Index.create()
    except Exception:  # the package without its library, or another package of that name
        return None
    return cindex


def clang_text(source: MetalSource) -> str:
    body = re.sub(r"\[\[[a-z][^\]]*\]\]", "", source.text)
    # In a C++ function, only a static variable may have an address space.
    body = re.sub(r"(?m)^(\s*)threadgroup (\w+ \w+\[)", r"\1static threadgroup \2", body)
    explicit = f"template decltype({source.instance}) {source.instance};" if "<" in source.instance else ""
    return f"{PRELUDE}\n{body}\n{explicit}\n"


def complaints(source: MetalSource) -> list[str]:
    """The errors of clang, or an empty list. C++14 is the language of Metal 3."""
    cindex = libclang()
    arguments = ["-x", "c++", "-std=c++14", "-target", "x86_64-linux-gnu", "-nostdinc", "-Wno-everything"]
    unit = cindex.Index.create().parse("kernel.cpp", arguments, unsaved_files=[("kernel.cpp", clang_text(source))])
    return [f"clang: line {d.location.line}: {d.spelling}" for d in unit.diagnostics if d.severity >= d.Error]
