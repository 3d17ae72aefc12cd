// All of a transformer that lies between a token's embedding and its logits as one function whose
// threads part and meet as rarely as the layers allow (models/transformer.py says the same in
// PyTorch; heads/native_tokens.py lays out what is read here, and says why). Weights, keys and
// values are float32 or, with BFLOAT16 defined, bfloat16; all between them is float32.
//
// A product of a few rows with a matrix takes as long as reading the matrix, so every matrix lies
// in the order it is read in (token_products.h). Lines are asked for some ahead, for what one core
// reads is what it has asked for at a time.
//
// Every number is the sum of its terms in one order, whatever rows and threads there are beside
// it: a sample's logits do not depend on its batch.

#include <initializer_list>
#include <omp.h>

#include "token_products.h"

namespace {

struct Range {
    long begin, end;
};

// The part of a thread, the same ones side by side in every layer.
inline Range part(long count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

// One row: normalized, handed over 16 channels at a time.
template <typename Put>
inline void normalize(const float* x, long width, const float* weight, const float* bias, float eps, Put put) {
    Vec total = {}, squares = {};
    for (long c = 0; c < width; c += LANES) total += load(x + c);
    const float mean = sum(total) / width;
    for (long c = 0; c < width; c += LANES) {
        const Vec centered = load(x + c) - mean;
        squares += centered * centered;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum(squares) / width + eps);
    for (long c = 0; c < width; c += LANES) put(c, (load(x + c) - mean) * scale * load(weight + c) + load(bias + c));
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

// For 16 VECTORS channels: the sum over positions of values by their weight.
template <int VECTORS, typename Put>
inline void mix(const Number* values, const float* weights, long count, long channels, long channel, Put put) {
    Vec out[VECTORS] = {};
    values += channel;
    for (long i = 0; i < count; ++i, values += channels)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) {
            if (j * LANES % LINE == 0) __builtin_prefetch(values + j * LANES + AHEAD);
            out[j] += load(values + j * LANES) * weights[i];
        }
    for (int j = 0; j < VECTORS; ++j) put(channel + j * LANES, out[j]);
}

// One query of one head. Keys lie in blocks of 16 positions, for each channel 16 keys side by
// side; values lie one after the other. Results are handed over 16 channels at a time.
template <typename Put>
inline void attend(const float* query, const Number* keys, const Number* values, long count, long channels, float* scores, Put put) {
    ask(values, count * channels);
    for (long first = 0; first < count; first += LANES) {
        Vec even = {}, odd = {};
        for (long c = 0; c < channels; c += 2) {
            for (int i = 0; i < 2 * LANES; i += LINE) __builtin_prefetch(keys + AHEAD + i);
            even += load(keys) * query[c];
            odd += load(keys + LANES) * query[c + 1];
            keys += 2 * LANES;
        }
        store(scores + first, even + odd);
    }
    softmax(scores, count);
    long c = 0;
    for (; c + 4 * LANES <= channels; c += 4 * LANES) mix<4>(values, scores, count, channels, c, put);
    for (; c < channels; c += LANES) mix<1>(values, scores, count, channels, c, put);
}

struct Sizes {
    int64_t depth, width, heads, channels, positions, outputs, samples, neighbors, guided, folded, threads, position;
};

struct Block {
    const float *norm1, *norm1_bias;
    const Number *to_all, *to_out;
    const float *to_out_bias, *norm2, *norm2_bias;
    const Number *to_query, *from_neighbors;
    const float *from_neighbors_bias, *norm3, *norm3_bias;
    const Number* gated;
    const float* gated_bias;
    const Number* back;
    const float* back_bias;
    // Of the batch: earlier keys and values, and those of the neighbors (or what they were
    // multiplied with, if folded).
    Number *keys, *values;
    const Number *neighbor_keys, *neighbor_values;
};

// Outputs of a layer that one thread computes, at most; 32 stay together.
inline long most_outputs(const Sizes& s) {
    long widest = s.outputs;
    for (long outputs : {8 * s.width, 3 * s.heads * s.channels}) widest = outputs > widest ? outputs : widest;
    return widest / s.threads + 2 * LANES;
}

// What the threads of a token share.
struct Shared {
    float *x, *queries, *weights;
    Input *attended, *hidden;
};

class Thread {
  public:
    Thread(const Sizes& sizes, const Shared& shared, float* own, float eps, int id, int threads)
        : s(sizes), shared(shared), eps(eps), id(id), threads(threads), inner(s.heads * s.channels),
          all(s.guided ? 2 * s.samples : s.samples), sums(reinterpret_cast<Vec*>(own)),
          scores(own + all * most_outputs(s)), query(scores + s.positions + s.neighbors + 2 * LANES),
          normed(reinterpret_cast<Input*>(query + s.width)), registers(all, s.samples) {}

    void block(const Block& b, long rows) {
        within(b, rows);
        if (s.folded) across_folded(b, rows); else across(b, rows);
        forward(b);
    }

    void finish(const Number* weights, const float* bias, float* logits) {
        for (long row = 0; row < all; ++row)
            for (long c = 0; c < s.width; c += LANES) put(normed, c, row, all, load(shared.x + row * s.width + c));
        for_blocks(s.outputs, weights, normed, s.width, all, [&](long output, const Vec* sums) {
            for (long row = 0; row < all; ++row)
                store(logits + row * s.outputs + output, sums[row] + load(bias + output));
        });
    }

  private:
    // Multiply with every block of outputs that is this thread's, `together` of which stay
    // together, and hand over their sums.
    template <typename Done>
    void for_blocks(long outputs, const Number* weights, const Input* x, long inputs, long rows, Done done, long together = 1) {
        const long blocks = outputs / LANES;
        const Range parts = part(blocks / together, id, threads);
        const Range mine = {parts.begin * together, parts.end * together};
        for (long i = 0; i < (mine.end - mine.begin) * rows; ++i) sums[i] = Vec{};
        for (long first = 0; first < inputs; first += CHUNK) {
            const long here = inputs - first < CHUNK ? inputs - first : CHUNK;
            const Number* chunk = weights + first * outputs;
            const long after = first + here;
            const long then = inputs - after < CHUNK ? inputs - after : CHUNK;
            for (long i = mine.begin; i < mine.end; ++i) {
                const Number* block = chunk + i * here * LANES;
                const Number* next = i + 1 < mine.end ? block + here * LANES : weights + after * outputs + mine.begin * then * LANES;
                for (long row = 0; row < rows; row += TILE) {
                    const long tile = rows - row < TILE ? rows - row : TILE;
                    multiply(registers, block, next, inputs_of(x, first, row, all), all, here, tile, sums + (i - mine.begin) * rows + row);
                }
            }
        }
        for (long i = mine.begin; i < mine.end; i += together) done(i * LANES, sums + (i - mine.begin) * rows);
    }

    void normalize_rows(long rows, const float* weight, const float* bias) {
        for (long row = 0; row < rows; ++row)
            normalize(shared.x + row * s.width, s.width, weight, bias, eps, [&](long c, Vec found) { put(normed, c, row, all, found); });
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
                    Number* to = b.keys + (row * s.heads + head) * room + s.position / LANES * LANES * s.channels + channel * LANES + s.position % LANES;
                    scatter(to, LANES, sums[row]);
                }
                if (which == 2) store(b.values + ((row * s.heads + head) * s.positions + s.position) * s.channels + channel, sums[row]);
            }
        });
#pragma omp barrier
        const Range mine = part(rows * s.heads, id, threads);
        for (long i = mine.begin; i < mine.end; ++i) {
            const long row = i / s.heads, head = i % s.heads;
            ask(b.keys + (i + 1) * room, (s.position + 1) * s.channels);
            attend(shared.queries + i * s.channels, b.keys + i * room, b.values + i * s.positions * s.channels,
                   s.position + 1, s.channels, scores,
                   [&](long c, Vec found) { put(shared.attended, head * s.channels + c, row, all, found); });
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
                   s.neighbors, s.channels, scores,
                   [&](long c, Vec found) { put(shared.attended, head * s.channels + c, row, all, found); });
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
        const Range mine = part(s.samples * s.heads, id, threads);
        for (long i = mine.begin; i < mine.end; ++i) {
            const long row = i / s.heads;
            if (i == mine.begin || i % s.heads == 0)
                normalize(shared.x + row * s.width, s.width, b.norm2, b.norm2_bias, eps, [&](long c, Vec found) { store(query + c, found); });
            for (long neighbor = 0; neighbor < s.neighbors; ++neighbor) {
                const Number* key = b.neighbor_keys + (i * s.neighbors + neighbor) * s.width;
                Vec even = {}, odd = {};
                long c = 0;
                for (; c + 2 * LANES <= s.width; c += 2 * LANES) {
                    for (int i = 0; i < 2 * LANES; i += LINE) __builtin_prefetch(key + c + AHEAD + i);
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
                const Number* values = b.neighbor_values + (sample * (s.width / LANES) + i) * terms * LANES;
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
                put(shared.hidden, output / 2, row, all, (sums[row] + bias) * gelu(sums[all + row] + gate_bias));
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
    float *scores, *query;
    Input* normed;
    const Registers registers;
};

inline long shared_floats(const Sizes& s, long all) {
    return all * (s.width + 2 * s.heads * s.channels + 4 * s.width) + s.samples * s.heads * s.neighbors + LANES;
}

inline long own_floats(const Sizes& s, long all) {
    // Threads write to lines of their own.
    return (all * (most_outputs(s) + s.width) + s.width + s.positions + s.neighbors + 4 * LANES) / LANES * LANES;
}

}  // namespace

extern "C" {

// Say whether this process may compute what was compiled.
int64_t may_multiply() { return allowed(); }

// Floats of working memory that a token needs.
int64_t room_for_token(const int64_t* sizes) {
    const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);
    const long all = s.guided ? 2 * s.samples : s.samples;
    return shared_floats(s, all) + LANES + s.threads * own_floats(s, all);
}

// Turn embedded tokens into logits, and add their keys and values to the earlier ones.
void next_logits(const int64_t* sizes, const void* blocks, const void* out_weights, const float* out_bias, float eps, const float* embedded, float* room, float* logits) {
    const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);
    const long all = s.guided ? 2 * s.samples : s.samples, inner = s.heads * s.channels;
    Shared shared;
    shared.x = room;
    shared.queries = shared.x + all * s.width;
    shared.weights = shared.queries + all * inner;
    float* inputs = shared.weights + (s.samples * s.heads * s.neighbors + LANES - 1) / LANES * LANES;
    shared.attended = reinterpret_cast<Input*>(inputs);
    shared.hidden = reinterpret_cast<Input*>(inputs + all * inner);
    float* own = room + (shared_floats(s, all) + LANES - 1) / LANES * LANES;
    for (long i = 0; i < s.samples * s.width; ++i) shared.x[i] = embedded[i];
#pragma omp parallel num_threads(s.threads)
    {
        const int id = omp_get_thread_num();
        Thread thread(s, shared, own + id * own_floats(s, all), eps, id, omp_get_num_threads());
        for (long i = 0; i < s.depth; ++i)
            thread.block(reinterpret_cast<const Block*>(blocks)[i], i == 0 ? s.samples : all);
        thread.finish(static_cast<const Number*>(out_weights), out_bias, logits);
    }
}

}  // extern "C"
