// Sixteen numbers at a time: how they are kept in memory, and functions of them in float32.

#pragma once

#include <cstdint>

namespace {

constexpr int LANES = 16;

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// What weights, keys and values are kept as: bfloat16 is the upper half of a float.
#ifdef BFLOAT16
typedef uint16_t Number;
#else
typedef float Number;
#endif

// Numbers of a line of the caches, and how many are asked for ahead of their use: 2 KiB.
constexpr int LINE = 64 / sizeof(Number);
constexpr int AHEAD = 2048 / sizeof(Number);

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<Vec*>(to) = x; }

inline Vec load(const uint16_t* from) {
    return (Vec)(__builtin_convertvector(*reinterpret_cast<const Halves*>(from), Bits) << 16);
}

// Round to the nearest bfloat16, ties to even.
inline Halves rounded(Vec x) {
    const Bits bits = (Bits)x;
    return __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, Halves);
}

inline void store(uint16_t* to, Vec x) { *reinterpret_cast<Halves*>(to) = rounded(x); }

// Write 16 numbers `step` apart.
inline void scatter(float* to, long step, Vec x) {
    for (int i = 0; i < LANES; ++i) to[i * step] = x[i];
}

inline void scatter(uint16_t* to, long step, Vec x) {
    const Halves halves = rounded(x);
    for (int i = 0; i < LANES; ++i) to[i * step] = halves[i];
}

// Ask for what is read after something else.
inline void ask(const Number* from, long count) {
    for (long i = 0; i < count && i < AHEAD; i += LINE) __builtin_prefetch(from + i);
}

inline float sum(Vec x) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
}

// 2^n times the Taylor series on [-ln(2) / 2, ln(2) / 2]: relative error below 1e-7 there.
inline Vec exponential(Vec x) {
    x = x < -87.0f ? Vec{} - 87.0f : x;
    x = x > 88.0f ? Vec{} + 88.0f : x;
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: the sum has no digits after the point
    const Vec n = (x * 1.44269504f + to_integer) - to_integer;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec series = r * (1.0f / 5040) + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
    return series * (Vec)bits;  // the same bits, read as floats
}

// x / 2 * (1 + erf(x / sqrt(2))); erf by Abramowitz and Stegun 1964, 7.1.26, absolute error at
// most 1.5e-7.
inline Vec gelu(Vec x) {
    const Vec scaled = x * 0.70710678f;
    const Vec size = scaled < 0.0f ? -scaled : scaled;
    const Vec t = 1.0f / (size * 0.3275911f + 1.0f);
    Vec series = t * 1.061405429f - 1.453152027f;
    series = series * t + 1.421413741f;
    series = series * t - 0.284496736f;
    series = series * t + 0.254829592f;
    const Vec rest = series * t * exponential(-size * size);
    const Vec erf = scaled < 0.0f ? rest - 1.0f : 1.0f - rest;
    return x * 0.5f * (erf + 1.0f);
}

}  // namespace
