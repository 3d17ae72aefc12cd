// All of a transformer that lies between a token's embedding and its logits, in float32, as one
// function whose threads part and meet as rarely as the layers allow (models/transformer.py says
// the same in PyTorch; heads/native_tokens.py lays out what is read here, and says why).
//
// A product of a few rows with a matrix takes as long as reading the matrix, so every matrix lies
// in the order it is read in: for 192 inputs after the other, blocks of 16 outputs, for each input
// 16 weights side by side. They are asked for some lines ahead, for what one core reads is what it
// has asked for at a time. Inputs of a product lie with the rows of one channel side by side: 192
// of 16 rows stay in the first cache beside what flows through it.
//
// Every number is the sum of its terms in one order, whatever rows and threads there are beside
// it: a sample's logits do not depend on its batch.

#include <cstdint>
#include <initializer_list>
#include <omp.h>

namespace {

constexpr int LANES = 16;
// Rows whose sums stay in registers: of 32 with AVX-512; elsewhere a vector takes two or four.
#ifdef __AVX512F__
constexpr int TILE = 16;
#else
constexpr int TILE = 4;
#endif
// Floats that weights, and keys and values, are asked for ahead: 2 KiB.
constexpr int AHEAD = 512;

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));

inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<Vec*>(to) = x; }

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

// Inputs of a chunk.
constexpr long CHUNK = 192;

// sums[r] += sum over some inputs of 16 weights times the input of row r; `next` is read after.
template <int ROWS>
inline void multiply_tile(const float* weights, const float* next, const float* x, long stride, long inputs, Vec* sums) {
    Vec kept[ROWS];
    for (int row = 0; row < ROWS; ++row) kept[row] = sums[row];
    const auto over = [&](long count, const float* ahead) {
        for (long input = 0; input < count; ++input) {
            __builtin_prefetch(ahead + input * LANES);
            const Vec of_input = load(weights + input * LANES);
#pragma GCC unroll 16
            for (int row = 0; row < ROWS; ++row) kept[row] += of_input * x[row];
            x += stride;
        }
        weights += count * LANES;
    };
    const long last = inputs < AHEAD / LANES ? inputs : AHEAD / LANES;
    over(inputs - last, weights + AHEAD);
    over(last, next);
    for (int row = 0; row < ROWS; ++row) sums[row] = kept[row];
}

typedef void (*Tile)(const float*, const float*, const float*, long, long, Vec*);
constexpr Tile TILES[] = {
    nullptr,           multiply_tile<1>,  multiply_tile<2>,  multiply_tile<3>,  multiply_tile<4>,
    multiply_tile<5>,  multiply_tile<6>,  multiply_tile<7>,  multiply_tile<8>,  multiply_tile<9>,
    multiply_tile<10>, multiply_tile<11>, multiply_tile<12>, multiply_tile<13>, multiply_tile<14>,
    multiply_tile<15>, multiply_tile<16>,
};

struct Range {
    long begin, end;
};

// The part of a thread, the same ones side by side in every layer.
inline Range part(long count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

// One row: normalized, channels `step` apart.
inline void normalize(const float* x, long width, const float* weight, const float* bias, float eps, float* to, long step) {
    Vec total = {}, squares = {};
    for (long c = 0; c < width; c += LANES) total += load(x + c);
    const float mean = sum(total) / width;
    for (long c = 0; c < width; c += LANES) {
        const Vec centered = load(x + c) - mean;
        squares += centered * centered;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum(squares) / width + eps);
    for (long c = 0; c < width; c += LANES) {
        const Vec out = (load(x + c) - mean) * scale * load(weight + c) + load(bias + c);
        for (int i = 0; i < LANES; ++i) to[(c + i) * step] = out[i];
    }
}

// Turn `count` scores into what sums to one; up to the next multiple of 16 they become zero.
inline void softmax(float* scores, long count) {
    const long padded = (count + LANES - 1) / LANES * LANES;
    float largest = scores[0];
    for (long i = 1; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    Vec total = {};
    for (long i = count; i < padded; ++i) scores[i] = -1e30f;
    for (long i = 0; i < padded; i += LANES) {
        Vec found = exponential(load(scores + i) - largest);
        if (i + LANES > count)
            for (int j = 0; j < LANES; ++j) found[j] = i + j < count ? found[j] : 0.0f;
        store(scores + i, found);
        total += found;
    }
    const float scale = 1.0f / sum(total);
    for (long i = 0; i < padded; i += LANES) store(scores + i, load(scores + i) * scale);
}

// One query of one head. Keys lie in blocks of 16 positions, for each channel 16 keys side by
// side; values lie one after the other. Results are written `step` apart.
inline void attend(const float* query, const float* keys, const float* values, long count, long channels, float* scores, float* to, long step) {
    for (long first = 0; first < count; first += LANES) {
        Vec even = {}, odd = {};
        for (long c = 0; c < channels; c += 2) {
            __builtin_prefetch(keys + AHEAD);
            __builtin_prefetch(keys + AHEAD + LANES);
            even += load(keys) * query[c];
            odd += load(keys + LANES) * query[c + 1];
            keys += 2 * LANES;
        }
        store(scores + first, even + odd);
    }
    softmax(scores, count);
    for (long c = 0; c < channels; c += 4 * LANES) {
        const int here = channels - c < 4 * LANES ? (channels - c) / LANES : 4;
        Vec out[4] = {};
        for (long i = 0; i < count; ++i)
            for (int j = 0; j < here; ++j) {
                __builtin_prefetch(values + i * channels + c + j * LANES + AHEAD);
                out[j] += load(values + i * channels + c + j * LANES) * scores[i];
            }
        for (int j = 0; j < here; ++j)
            for (int i = 0; i < LANES; ++i) to[(c + j * LANES + i) * step] = out[j][i];
    }
}

struct Sizes {
    int64_t depth, width, heads, channels, positions, outputs, samples, neighbors, guided, folded, threads, position;
};

struct Block {
    const float *norm1, *norm1_bias, *to_all, *to_out, *to_out_bias;
    const float *norm2, *norm2_bias, *to_query, *from_neighbors, *from_neighbors_bias;
    const float *norm3, *norm3_bias, *gated, *gated_bias, *back, *back_bias;
    // Of the batch: earlier keys and values, and those of the neighbors (or what they were
    // multiplied with, if folded).
    float *keys, *values;
    const float *neighbor_keys, *neighbor_values;
};

// Outputs of a layer that one thread computes, at most; 32 stay together.
inline long most_outputs(const Sizes& s) {
    long widest = s.outputs;
    for (long outputs : {8 * s.width, 3 * s.heads * s.channels}) widest = outputs > widest ? outputs : widest;
    return widest / s.threads + 2 * LANES;
}

// What the threads of a token share.
struct Shared {
    float *x, *queries, *attended, *weights, *hidden;
};

class Thread {
  public:
    Thread(const Sizes& sizes, const Shared& shared, float* own, float eps, int id, int threads)
        : s(sizes), shared(shared), eps(eps), id(id), threads(threads), inner(s.heads * s.channels),
          all(s.guided ? 2 * s.samples : s.samples), sums(reinterpret_cast<Vec*>(own)),
          scores(own + all * most_outputs(s)), normed(scores + s.positions + s.neighbors + 2 * LANES) {}

    void block(const Block& b, long rows) {
        within(b, rows);
        if (s.folded) across_folded(b, rows); else across(b, rows);
        forward(b);
    }

    void finish(const float* weights, const float* bias, float* logits) {
        for (long row = 0; row < all; ++row)
            for (long c = 0; c < s.width; ++c) normed[c * all + row] = shared.x[row * s.width + c];
        for_blocks(s.outputs, weights, normed, s.width, all, [&](long output, const Vec* sums) {
            for (long row = 0; row < all; ++row)
                store(logits + row * s.outputs + output, sums[row] + load(bias + output));
        });
    }

  private:
    // Multiply with every block of outputs that is this thread's, `together` of which stay
    // together, and hand over their sums.
    template <typename Done>
    void for_blocks(long outputs, const float* weights, const float* x, long inputs, long rows, Done done, long together = 1) {
        const long blocks = outputs / LANES;
        const Range parts = part(blocks / together, id, threads);
        const Range mine = {parts.begin * together, parts.end * together};
        for (long i = 0; i < (mine.end - mine.begin) * rows; ++i) sums[i] = Vec{};
        for (long first = 0; first < inputs; first += CHUNK) {
            const long here = inputs - first < CHUNK ? inputs - first : CHUNK;
            const float* chunk = weights + first * outputs;
            const long after = first + here;
            const long then = inputs - after < CHUNK ? inputs - after : CHUNK;
            for (long i = mine.begin; i < mine.end; ++i) {
                const float* block = chunk + i * here * LANES;
                const float* next = i + 1 < mine.end ? block + here * LANES : weights + after * outputs + mine.begin * then * LANES;
                for (long row = 0; row < rows; row += TILE) {
                    const long tile = rows - row < TILE ? rows - row : TILE;
                    TILES[tile](block, next, x + first * all + row, all, here, sums + (i - mine.begin) * rows + row);
                }
            }
        }
        for (long i = mine.begin; i < mine.end; i += together) done(i * LANES, sums + (i - mine.begin) * rows);
    }

    void normalize_rows(long rows, const float* weight, const float* bias) {
        for (long row = 0; row < rows; ++row)
            normalize(shared.x + row * s.width, s.width, weight, bias, eps, normed + row, all);
    }

    void within(const Block& b, long rows) {
        normalize_rows(rows, b.norm1, b.norm1_bias);
        const long room = (s.positions + LANES - 1) / LANES * LANES * s.channels;
        const float scale = 1.0f / __builtin_sqrtf(float(s.channels));
        for_blocks(3 * inner, b.to_all, normed, s.width, rows, [&](long output, const Vec* sums) {
            const long which = output / inner, at = output % inner;
            const long head = at / s.channels, channel = at % s.channels;
            for (long row = 0; row < rows; ++row) {
                if (which == 0) store(shared.queries + row * inner + at, sums[row] * scale);
                if (which == 1) {
                    float* to = b.keys + (row * s.heads + head) * room + s.position / LANES * LANES * s.channels + channel * LANES + s.position % LANES;
                    for (int i = 0; i < LANES; ++i) to[i * LANES] = sums[row][i];
                }
                if (which == 2) store(b.values + ((row * s.heads + head) * s.positions + s.position) * s.channels + channel, sums[row]);
            }
        });
#pragma omp barrier
        const Range mine = part(rows * s.heads, id, threads);
        for (long i = mine.begin; i < mine.end; ++i) {
            const long row = i / s.heads, head = i % s.heads;
            attend(shared.queries + i * s.channels, b.keys + i * room, b.values + i * s.positions * s.channels,
                   s.position + 1, s.channels, scores, shared.attended + head * s.channels * all + row, all);
        }
#pragma omp barrier
        for_blocks(s.width, b.to_out, shared.attended, inner, rows, [&](long output, const Vec* sums) {
            const Vec bias = load(b.to_out_bias + output);
            for (long row = 0; row < rows; ++row) {
                float* to = shared.x + row * s.width + output;
                store(to, load(to) + (sums[row] + bias));
            }
        });
#pragma omp barrier
    }

    // Add what the neighbors give to the rows of a sample, 16 channels of it. Before the first
    // time both branches are one row; the other never sees the neighbors.
    void add_to_sample(long sample, long output, Vec bias, Vec found, long rows) {
        float* with = shared.x + sample * s.width + output;
        const Vec before = load(with);
        store(with, before + (found + bias));
        if (!s.guided) return;
        float* without = with + s.samples * s.width;
        store(without, (rows == s.samples ? before : load(without)) + bias);
    }

    void across(const Block& b, long rows) {
        normalize_rows(s.samples, b.norm2, b.norm2_bias);
        const float scale = 1.0f / __builtin_sqrtf(float(s.channels));
        for_blocks(inner, b.to_query, normed, s.width, s.samples, [&](long output, const Vec* sums) {
            for (long row = 0; row < s.samples; ++row) store(shared.queries + row * inner + output, sums[row] * scale);
        });
#pragma omp barrier
        const long room = (s.neighbors + LANES - 1) / LANES * LANES * s.channels;
        const Range mine = part(s.samples * s.heads, id, threads);
        for (long i = mine.begin; i < mine.end; ++i) {
            const long row = i / s.heads, head = i % s.heads;
            attend(shared.queries + i * s.channels, b.neighbor_keys + i * room, b.neighbor_values + i * s.neighbors * s.channels,
                   s.neighbors, s.channels, scores, shared.attended + head * s.channels * all + row, all);
        }
#pragma omp barrier
        for_blocks(s.width, b.from_neighbors, shared.attended, inner, s.samples, [&](long output, const Vec* sums) {
            const Vec bias = load(b.from_neighbors_bias + output);
            for (long sample = 0; sample < s.samples; ++sample) add_to_sample(sample, output, bias, sums[sample], rows);
        });
#pragma omp barrier
    }

    // The same where queries were multiplied with keys, and values with the layer behind, before:
    // few neighbors are fewer numbers than two layers.
    void across_folded(const Block& b, long rows) {
        for (long row = 0; row < s.samples; ++row)
            normalize(shared.x + row * s.width, s.width, b.norm2, b.norm2_bias, eps, normed + row * s.width, 1);
        const Range mine = part(s.samples * s.heads, id, threads);
        for (long i = mine.begin; i < mine.end; ++i) {
            const float* query = normed + i / s.heads * s.width;
            for (long neighbor = 0; neighbor < s.neighbors; ++neighbor) {
                const float* key = b.neighbor_keys + (i * s.neighbors + neighbor) * s.width;
                Vec even = {}, odd = {};
                long c = 0;
                for (; c + 2 * LANES <= s.width; c += 2 * LANES) {
                    __builtin_prefetch(key + c + AHEAD);
                    __builtin_prefetch(key + c + AHEAD + LANES);
                    even += load(key + c) * load(query + c);
                    odd += load(key + c + LANES) * load(query + c + LANES);
                }
                if (c < s.width) even += load(key + c) * load(query + c);
                scores[neighbor] = sum(even + odd);
            }
            softmax(scores, s.neighbors);
            for (long neighbor = 0; neighbor < s.neighbors; ++neighbor)
                shared.weights[i * s.neighbors + neighbor] = scores[neighbor];
        }
#pragma omp barrier
        const Range columns = part(s.width / LANES, id, threads);
        const long terms = s.heads * s.neighbors;
        for (long sample = 0; sample < s.samples; ++sample)
            for (long i = columns.begin; i < columns.end; ++i) {
                // Blocks of 16 outputs here too, for each term 16 numbers side by side.
                const float* values = b.neighbor_values + (sample * (s.width / LANES) + i) * terms * LANES;
                Vec found = {};
                for (long term = 0; term < terms; ++term) {
                    __builtin_prefetch(values + AHEAD);
                    found += load(values) * shared.weights[sample * terms + term];
                    values += LANES;
                }
                add_to_sample(sample, i * LANES, load(b.from_neighbors_bias + i * LANES), found, rows);
            }
#pragma omp barrier
    }

    void forward(const Block& b) {
        normalize_rows(all, b.norm3, b.norm3_bias);
        const long hidden = 4 * s.width;
        // A block of values, then the gates of the same outputs.
        for_blocks(2 * hidden, b.gated, normed, s.width, all, [&](long output, const Vec* sums) {
            const Vec bias = load(b.gated_bias + output), gate_bias = load(b.gated_bias + output + LANES);
            for (long row = 0; row < all; ++row) {
                const Vec found = (sums[row] + bias) * gelu(sums[all + row] + gate_bias);
                for (int j = 0; j < LANES; ++j) shared.hidden[(output / 2 + j) * all + row] = found[j];
            }
        }, 2);
#pragma omp barrier
        for_blocks(s.width, b.back, shared.hidden, hidden, all, [&](long output, const Vec* sums) {
            const Vec bias = load(b.back_bias + output);
            for (long row = 0; row < all; ++row) {
                float* to = shared.x + row * s.width + output;
                store(to, load(to) + (sums[row] + bias));
            }
        });
#pragma omp barrier
    }

    const Sizes& s;
    const Shared& shared;
    const float eps;
    const int id, threads;
    const long inner, all;
    Vec* sums;
    float *scores, *normed;
};

inline long shared_floats(const Sizes& s, long all) {
    return all * (s.width + 2 * s.heads * s.channels + 4 * s.width) + s.samples * s.heads * s.neighbors;
}

inline long own_floats(const Sizes& s, long all) {
    // Threads write to lines of their own.
    return (all * (most_outputs(s) + s.width) + s.positions + s.neighbors + 4 * LANES) / LANES * LANES;
}

}  // namespace

extern "C" {

// Floats of working memory that a token needs.
int64_t room_for_token(const int64_t* sizes) {
    const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);
    const long all = s.guided ? 2 * s.samples : s.samples;
    return shared_floats(s, all) + LANES + s.threads * own_floats(s, all);
}

// Turn embedded tokens into logits, and add their keys and values to the earlier ones.
void next_logits(const int64_t* sizes, const void* blocks, const float* out_weights, const float* out_bias, float eps, const float* embedded, float* room, float* logits) {
    const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);
    const long all = s.guided ? 2 * s.samples : s.samples, inner = s.heads * s.channels;
    Shared shared;
    shared.x = room;
    shared.queries = shared.x + all * s.width;
    shared.attended = shared.queries + all * inner;
    shared.hidden = shared.attended + all * inner;
    shared.weights = shared.hidden + all * 4 * s.width;
    float* own = room + (shared_floats(s, all) + LANES - 1) / LANES * LANES;
    for (long i = 0; i < s.samples * s.width; ++i) shared.x[i] = embedded[i];
#pragma omp parallel num_threads(s.threads)
    {
        const int id = omp_get_thread_num();
        Thread thread(s, shared, own + id * own_floats(s, all), eps, id, omp_get_num_threads());
        for (long i = 0; i < s.depth; ++i)
            thread.block(reinterpret_cast<const Block*>(blocks)[i], i == 0 ? s.samples : all);
        thread.finish(out_weights, out_bias, logits);
    }
}

}  // extern "C"
