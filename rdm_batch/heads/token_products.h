// Products of a few rows with a matrix whose weights lie in the order they are read in: for a chunk
// of inputs after the other, blocks of 16 outputs; in float32 for each input 16 weights side by
// side, in bfloat16 for each two inputs 16 pairs. Inputs of a product are put where it looks for
// them.
//
// In bfloat16 factors are rounded and sums are in float32. A CPU with AMX multiplies 16 rows with
// 32 inputs of 16 outputs at once; any other multiplies the same factors in float32, and its last
// digits are others.

#pragma once

#include "token_vectors.h"

#if defined(BFLOAT16) && defined(__AMX_BF16__) && defined(__linux__) && !defined(NO_TILES)
#define TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// Rows whose sums stay in registers: of 32 with AVX-512; elsewhere a vector takes two or four.
#ifdef __AVX512F__
constexpr int TILE = 16;
#else
constexpr int TILE = 4;
#endif

// Inputs of a chunk: those of 16 rows stay in the first cache beside what flows through it.
constexpr long CHUNK = 192;

#ifdef TILES

// Of every 32 inputs those of a row lie side by side, one row after the other.
typedef uint16_t Input;
constexpr int DEPTH = 32;

inline void put(Input* inputs, long channel, long row, long all, Vec x) {
    store(inputs + channel / DEPTH * DEPTH * all + row * DEPTH + channel % DEPTH, x);
}

inline const Input* inputs_of(const Input* inputs, long channel, long row, long all) {
    return inputs + channel * all + row * DEPTH;
}

// Ask the kernel for the registers of AMX; they are large, and a process has to.
inline bool allowed() {
    constexpr long ask_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
}

// Of the eight registers: weights, and sums and inputs of 16 rows or of what remains of all rows,
// or of one branch's.
constexpr int WEIGHTS = 2;

struct alignas(64) Shapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// A thread's registers, as long as it multiplies.
class Registers {
  public:
    Registers(long all, long samples) : of_all(all % TILE) {
        Shapes shapes;
        const long rows[] = {TILE, TILE, TILE, of_all, of_all, samples % TILE, samples % TILE};
        for (int i = 0; i < 7; ++i) shapes.rows[i] = rows[i], shapes.row_bytes[i] = rows[i] ? 64 : 0;
        asm volatile("ldtilecfg %0" ::"m"(shapes));
    }
    ~Registers() { asm volatile("tilerelease"); }
    const long of_all;
};

template <int TO>
inline void load_tile(const void* from) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(64L), "n"(TO) : "memory");
}

// sums += weights times inputs; `next` is read after these weights.
template <int SUMS>
void multiply_rows(const Number* weights, const Number* next, const Input* x, long all, long inputs, Vec* sums) {
    load_tile<SUMS>(sums);
    const Number* const end = weights + inputs * LANES;
    for (; weights < end; weights += DEPTH * LANES, x += DEPTH * all) {
        const Number* ahead = weights + AHEAD < end ? weights + AHEAD : next + (weights + AHEAD - end);
        for (int i = 0; i < DEPTH * LANES; i += LINE) __builtin_prefetch(ahead + i);
        load_tile<SUMS + 1>(x);
        load_tile<WEIGHTS>(weights);
        asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"n"(WEIGHTS), "n"(SUMS + 1), "n"(SUMS));
    }
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(sums), "r"(64L), "n"(SUMS) : "memory");
}

inline void multiply(const Registers& registers, const Number* weights, const Number* next, const Input* x, long all, long inputs, long rows, Vec* sums) {
    if (rows == TILE) multiply_rows<0>(weights, next, x, all, inputs, sums);
    else if (rows == registers.of_all) multiply_rows<3>(weights, next, x, all, inputs, sums);
    else multiply_rows<5>(weights, next, x, all, inputs, sums);
}

#else

// The rows of a channel lie side by side.
typedef float Input;

// Numbers that are asked for into the second cache before the first cache asks for them, 16 KiB
// ahead: the first waits for few lines at a time, and many multiplications between two of its
// lines leave memory idle.
constexpr long FAR = 16384 / sizeof(Number);

inline void put(Input* inputs, long channel, long row, long all, Vec x) {
#ifdef BFLOAT16
    x = (Vec)(__builtin_convertvector(rounded(x), Bits) << 16);
#endif
    scatter(inputs + channel * all + row, all, x);
}

inline const Input* inputs_of(const Input* inputs, long channel, long row, long all) {
    return inputs + channel * all + row;
}

inline bool allowed() { return true; }

struct Registers {
    Registers(long, long) {}
};

// The weights of two inputs.
struct Two {
    Vec first, second;
};

inline Two load_two(const float* from) { return {load(from), load(from + LANES)}; }

inline Two load_two(const uint16_t* from) {
    const Bits both = *reinterpret_cast<const Bits*>(from);
    return {(Vec)(both << 16), (Vec)(both & 0xffff0000u)};
}

// kept[r] += sum over some inputs of 16 weights times the input of row r.
template <int ROWS>
inline void add_products(Vec (&kept)[ROWS], const Number* weights, const Number* ahead, const float* x, long stride, long inputs) {
    for (long input = 0; input < inputs; input += 2) {
        for (int i = 0; i < 2 * LANES; i += LINE) {
            __builtin_prefetch(ahead + input * LANES + i);
            __builtin_prefetch(ahead + input * LANES + i + FAR, 0, 2);
        }
        const Two of = load_two(weights + input * LANES);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) kept[row] += of.first * x[input * stride + row];
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) kept[row] += of.second * x[(input + 1) * stride + row];
    }
}

// sums[r] += the same; `next` is read after these weights.
template <int ROWS>
void multiply_rows(const Number* weights, const Number* next, const float* x, long stride, long inputs, Vec* sums) {
    Vec kept[ROWS];
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) kept[row] = sums[row];
    const long last = inputs < AHEAD / LANES ? inputs : AHEAD / LANES, first = inputs - last;
    add_products(kept, weights, weights + AHEAD, x, stride, first);
    add_products(kept, weights + first * LANES, next, x + first * stride, stride, last);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) sums[row] = kept[row];
}

typedef void (*Multiply)(const Number*, const Number*, const float*, long, long, Vec*);
constexpr Multiply MULTIPLY[] = {
    nullptr,           multiply_rows<1>,  multiply_rows<2>,  multiply_rows<3>,  multiply_rows<4>,
    multiply_rows<5>,  multiply_rows<6>,  multiply_rows<7>,  multiply_rows<8>,  multiply_rows<9>,
    multiply_rows<10>, multiply_rows<11>, multiply_rows<12>, multiply_rows<13>, multiply_rows<14>,
    multiply_rows<15>, multiply_rows<16>,
};

inline void multiply(const Registers&, const Number* weights, const Number* next, const Input* x, long all, long inputs, long rows, Vec* sums) {
    MULTIPLY[rows](weights, next, x, all, inputs, sums);
}

#endif

}  // namespace
