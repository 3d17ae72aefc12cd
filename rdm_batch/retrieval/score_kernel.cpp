// Cosine scores of stored rows, as scores.py defines them: products are added in float64, element i
// to sum i mod 64, one after another; then the second half of the sums is added to the first until
// one is left. Compiled without merging products and sums (-ffp-contract=off), so that every CPU
// and numpy get the same bits.
//
// A search has just driven everything out of the caches, and the rows it proposes lie anywhere in
// a mapped file: the memory is asked for rows ahead of the one that is scored.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kLanes = 64;
constexpr int64_t kAhead = 8;
constexpr int64_t kLineBytes = 64;

struct Half {
  uint16_t bits;
};

float as_float(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// By whole numbers, which every CPU has: the exponent is 112 larger in float32. Subnormal numbers
// have no leading one: it is put there and taken away.
inline float number(Half stored) {
  constexpr int32_t rebias = 112 << 23, smallest = 113 << 23;
  const int32_t magnitude = stored.bits & 0x7fff, bits = magnitude << 13;
  const float normal = as_float(bits + (magnitude >= 0x7c00 ? 2 * rebias : rebias));
  const float subnormal = as_float(bits + smallest) - as_float(smallest);
  const float value = magnitude < 0x400 ? subnormal : normal;
  return stored.bits & 0x8000 ? -value : value;
}

inline float number(float stored) { return stored; }
inline double number(double stored) { return stored; }

struct Sums {
  double dot, square;
};

template <class Stored>
Sums sums(const double* query, const Stored* row, int64_t dim) {
  double dots[kLanes] = {}, squares[kLanes] = {};
  int64_t start = 0;
  for (; start + kLanes <= dim; start += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = number(row[start + lane]);
      dots[lane] += query[start + lane] * value;
      squares[lane] += value * value;
    }
  }
  for (int64_t lane = 0; start + lane < dim; ++lane) {
    const double value = number(row[start + lane]);
    dots[lane] += query[start + lane] * value;
    squares[lane] += value * value;
  }
  for (int64_t width = kLanes / 2; width; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) {
      dots[lane] += dots[lane + width];
      squares[lane] += squares[lane + width];
    }
  }
  return {dots[0], squares[0]};
}

// A query as numbers of 64 bits, and its length.
struct Query {
  std::vector<double> values;
  double length;

  template <class Asked>
  Query(const Asked* asked, int64_t dim) : values(asked, asked + dim) {
    length = std::sqrt(sums(values.data(), values.data(), dim).square);
  }
};

template <class Stored>
struct Rows {
  const Stored* first;
  int64_t count, dim;

  const Stored* row(int64_t position) const { return first + position * dim; }

  float score(const Query& query, int64_t position) const {
    const Sums found = sums(query.values.data(), row(position), dim);
    return static_cast<float>(found.dot / (query.length * std::sqrt(found.square)));
  }

  void ask_for(int64_t position, int64_t from_byte, int64_t to_byte) const {
    const char* start = reinterpret_cast<const char*>(row(position));
    for (int64_t byte = from_byte; byte < to_byte; byte += kLineBytes)
      __builtin_prefetch(start + byte);
  }

  int64_t row_bytes() const { return dim * static_cast<int64_t>(sizeof(Stored)); }
};

// What is asked of the best rows of one query, and where they go.
struct Best {
  int64_t k;
  int64_t* positions;
  float* scores;
  int64_t kept = 0;

  static bool before(float score, int64_t position, float other, int64_t other_position) {
    return score > other || (score == other && position < other_position);
  }

  // Candidates come nearly in order: most stay where they are put.
  void add(float score, int64_t position) {
    if (kept < k)
      ++kept;
    else if (!before(score, position, scores[k - 1], positions[k - 1]))
      return;
    int64_t place = kept - 1;
    for (; place && before(score, position, scores[place - 1], positions[place - 1]); --place) {
      scores[place] = scores[place - 1];
      positions[place] = positions[place - 1];
    }
    scores[place] = score;
    positions[place] = position;
  }
};

constexpr int64_t kFound = -1, kOutside = -2, kIncomplete = -3;

template <class Stored>
int64_t best_of(const Rows<Stored>& rows, const Query& query, const uint32_t* candidates, const float* rough, int64_t count, Best best,
                float* embeddings) {
  for (int64_t place = 0; place < count; ++place)
    if (candidates[place] >= rows.count) return kOutside;
  // The first line of a row also brings the address of its page.
  for (int64_t place = 0; place < count; ++place)
    rows.ask_for(candidates[place], 0, 1);
  for (int64_t place = 0; place < std::min(kAhead, count); ++place)
    rows.ask_for(candidates[place], kLineBytes, rows.row_bytes());
  for (int64_t place = 0; place < count; ++place) {
    if (place + kAhead < count)
      rows.ask_for(candidates[place + kAhead], kLineBytes, rows.row_bytes());
    if (!std::isfinite(rough[place])) continue;
    const int64_t position = candidates[place];
    const float score = rows.score(query, position);
    if (std::isnan(score)) return position;
    best.add(score, position);
  }
  for (int64_t place = 0; place < best.k; ++place) {
    const Stored* row = rows.row(best.positions[place]);
    for (int64_t i = 0; i < rows.dim; ++i)
      embeddings[place * rows.dim + i] = static_cast<float>(number(row[i]));
  }
  return best.kept < best.k ? kIncomplete : kFound;
}

template <class Stored>
int64_t best_of_all(const void* first, int64_t row_count, int64_t dim, const float* queries,
                    int64_t query_count, const uint32_t* candidates, const float* rough,
                    int64_t count, int64_t k, int64_t* positions, float* scores,
                    float* embeddings) {
  const Rows<Stored> rows{static_cast<const Stored*>(first), row_count, dim};
  int64_t told = kFound;
  for (int64_t query = 0; query < query_count; ++query) {
    std::fill_n(positions + query * k, k, 0);
    std::fill_n(scores + query * k, k, -INFINITY);
    const int64_t here = best_of(rows, Query(queries + query * dim, dim),
                                 candidates + query * count, rough + query * count, count,
                                 Best{k, positions + query * k, scores + query * k},
                                 embeddings + query * k * dim);
    if (here == kIncomplete)
      told = here;
    else if (here != kFound)
      return here;
  }
  return told;
}

template <class Stored>
void scores_of_pairs(const void* first, int64_t row_count, int64_t dim, const double* queries,
                     int64_t query_count, const int64_t* of_query, const int64_t* of_row,
                     int64_t pairs, float* scores) {
  const Rows<Stored> rows{static_cast<const Stored*>(first), row_count, dim};
  std::vector<Query> asked;
  for (int64_t query = 0; query < query_count; ++query) asked.emplace_back(queries + query * dim, dim);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    if (pair + kAhead < pairs) rows.ask_for(of_row[pair + kAhead], 0, rows.row_bytes());
    scores[pair] = rows.score(asked[of_query[pair]], of_row[pair]);
  }
}

}  // namespace

extern "C" {

// Divide queries by their lengths. Returns the first query that has no direction, else -1.
int64_t directions(const float* queries, int64_t count, int64_t dim, float* unit) {
  int64_t without = -1;
  for (int64_t number = count; number-- > 0;) {
    const Query query(queries + number * dim, dim);
    if (!(query.length > 0 && std::isfinite(query.length))) without = number;
    for (int64_t i = 0; i < dim; ++i)
      unit[number * dim + i] = static_cast<float>(query.values[i] / query.length);
  }
  return without;
}

void pair_scores(const void* rows, int64_t value_bytes, int64_t row_count, int64_t dim,
                 const double* queries, int64_t query_count, const int64_t* of_query,
                 const int64_t* of_row, int64_t pairs, float* scores) {
  const auto compute = value_bytes == 2   ? scores_of_pairs<Half>
                       : value_bytes == 4 ? scores_of_pairs<float>
                                          : scores_of_pairs<double>;
  compute(rows, row_count, dim, queries, query_count, of_query, of_row, pairs, scores);
}

// Keep the k best candidates of each query, ordered by (-score, position), and copy their rows.
// Where a query has fewer, the rest score minus infinity. Candidates whose rough score is not
// finite are none. Returns -1, or -3 where a query has fewer than k; else the position of a row
// without direction, or -2 where a candidate is no row.
int64_t best_rows(const void* rows, int64_t value_bytes, int64_t row_count, int64_t dim,
                  const float* queries, int64_t query_count, const uint32_t* candidates,
                  const float* rough, int64_t count, int64_t k, int64_t* positions, float* scores,
                  float* embeddings) {
  const auto compute = value_bytes == 2   ? best_of_all<Half>
                       : value_bytes == 4 ? best_of_all<float>
                                          : best_of_all<double>;
  return compute(rows, row_count, dim, queries, query_count, candidates, rough, count, k,
                 positions, scores, embeddings);
}
}
