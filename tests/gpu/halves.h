// Conversions of 16-bit numbers, to the nearest, ties to even. `static`: the checked library has them once instrumented and once not.
#pragma once

static inline float bfloat_to_float(unsigned short bits) { return __builtin_bit_cast(float, static_cast<unsigned>(bits) << 16); }

static inline unsigned short float_to_bfloat(float value) {
    if (value != value) {
        return 0x7fff;
    }
    const unsigned bits = __builtin_bit_cast(unsigned, value);
    return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float half_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
    if (exponent == 0) {  // subnormal: the fraction counts 2^-24
        const float size = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -size : size;
    }
    const unsigned rebased = exponent == 31 ? 255u : exponent + (127u - 15u);
    return __builtin_bit_cast(float, sign | (rebased << 23) | (fraction << 13));
}

static inline unsigned short float_to_half(float value) {
    const unsigned bits = __builtin_bit_cast(unsigned, value);
    const unsigned sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return 0x7fff;
    }
    if (size >= 0x477ff000u) {  // 65520 and more: infinite
        return static_cast<unsigned short>(sign | 0x7c00u);
    }
    if (size < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the fraction, in units of 2^-24, rounded in the lowest bits
        const float shifted = __builtin_bit_cast(float, size) + 0.5f;
        return static_cast<unsigned short>(sign | (__builtin_bit_cast(unsigned, shifted) - 0x3f000000u));
    }
    const unsigned rebased = size - ((127u - 15u) << 23);
    return static_cast<unsigned short>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
}
