// Read memory from one end to the other, as fast as some threads can.

#include <omp.h>

constexpr int LANES = 16, TOGETHER = 4;
// Floats that are asked for ahead: 2 KiB.
constexpr long AHEAD = 512;

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Sum up floats, of which there are whole lines of 64 numbers for every thread.
extern "C" float read_floats(const float* from, long count, int threads) {
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        const long part = count / omp_get_num_threads();
        const float* const begin = from + omp_get_thread_num() * part;
        Vec sums[TOGETHER] = {};
        for (const float* at = begin; at < begin + part; at += TOGETHER * LANES)
            for (int i = 0; i < TOGETHER; ++i) {
                __builtin_prefetch(at + i * LANES + AHEAD);
                sums[i] += *reinterpret_cast<const Vec*>(at + i * LANES);
            }
        const Vec sum = sums[0] + sums[1] + sums[2] + sums[3];
        for (int i = 0; i < LANES; ++i) total += sum[i];
    }
    return total;
}
