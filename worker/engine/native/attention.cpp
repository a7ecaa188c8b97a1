// Attention with relative positions (Transformer-XL, Dai et al. 2019, section 3.3) over the frames of a ring, for
// x86-64 with AVX2 and FMA. Keys and values are read where they lie, by their rows' numbers: once, in order, all heads
// of a frame together, which is the order of memory.
//
//   score(i, j) = (q_i + u) k_j + (q_i + v) p_(distance of j from i)       softmax over the j that i sees
//
// A row of the ring is a frame's keys, then its values: 2 x heads x D floats.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "vectors.h"

namespace {

using namespace trunkline;

constexpr int64_t COLUMNS = 16;     // of positions at once
constexpr int64_t HEIGHT = 6;       // queries at once
constexpr int64_t FOUR = 4;         // values at once
constexpr float HIDDEN = -10000.0f; // in place of a distance: the share is 0 to rounding

constexpr int64_t DEEPEST = 128;    // the largest D

// The last of a head's vectors of eight may be a part.
template <bool PART>
inline __m256 last(const float* from, __m256i mask) {
  return PART ? _mm256_maskload_ps(from, mask) : _mm256_loadu_ps(from);
}

inline float largest(__m256 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

// In place, over `size` scores; what follows them up to a whole vector becomes 0.
void softmax(float* scores, int64_t size) {
  std::fill(scores + size, scores + padded(size), -INFINITY);
  __m256 top = _mm256_loadu_ps(scores);
  for (int64_t j = LANES; j < size; j += LANES) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + j));
  const __m256 most = _mm256_set1_ps(largest(top));
  __m256 total = _mm256_setzero_ps();
  for (int64_t j = 0; j < size; j += LANES) {
    const __m256 value = _mm256_loadu_ps(scores + j);
    // the least that `exponential` gives is above 0
    const __m256 there = _mm256_cmp_ps(value, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ);
    const __m256 power = _mm256_and_ps(exponential(_mm256_sub_ps(value, most)), there);
    total = _mm256_add_ps(total, power);
    _mm256_storeu_ps(scores + j, power);
  }
  const __m256 share = _mm256_set1_ps(1.0f / sum(total));
  for (int64_t j = 0; j < size; j += LANES)
    _mm256_storeu_ps(scores + j, _mm256_mul_ps(_mm256_loadu_ps(scores + j), share));
}

// queries: (D, R); positions: (D, ...), `stride` apart; out: R rows of COLUMNS, `width` apart.
template <int R>
void near_tile(const float* queries, const float* positions, int64_t stride, int64_t d, float* out, int64_t width) {
  __m256 low[R], high[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) low[r] = high[r] = _mm256_setzero_ps();
  for (int64_t k = 0; k < d; ++k, positions += stride, queries += R) {
    const __m256 first = _mm256_loadu_ps(positions), second = _mm256_loadu_ps(positions + LANES);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 value = _mm256_broadcast_ss(queries + r);
      low[r] = _mm256_fmadd_ps(value, first, low[r]);
      high[r] = _mm256_fmadd_ps(value, second, high[r]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    _mm256_storeu_ps(out + r * width, low[r]);
    _mm256_storeu_ps(out + r * width + LANES, high[r]);
  }
}

using Tile = void (*)(const float*, const float*, int64_t, int64_t, float*, int64_t);
constexpr Tile TILES[HEIGHT + 1] = {nullptr,      near_tile<1>, near_tile<2>, near_tile<3>,
                                    near_tile<4>, near_tile<5>, near_tile<6>};

// Sizes of one call.
struct Sizes {
  int64_t batch, queries, keys, heads, d, width, columns, stride;
  int64_t room() const { return padded(std::max(keys, columns)); } // of one row of scores
};

// (q + v) p for all columns: the query's scores for distances from `first` downwards. out: (queries, room).
void near(const float* query, const float* v, const float* positions, const Sizes& s, float* turned, float* out) {
  for (int64_t begin = 0; begin < s.queries; begin += HEIGHT) {
    const int64_t height = std::min(HEIGHT, s.queries - begin);
    for (int64_t k = 0; k < s.d; ++k)
      for (int64_t r = 0; r < height; ++r) turned[k * height + r] = query[(begin + r) * s.width + k] + v[k];
    float* rows = out + begin * s.room();
    if (s.columns < COLUMNS) {
      for (int64_t r = 0; r < height; ++r)
        for (int64_t c = 0; c < s.columns; ++c) {
          float total = 0;
          for (int64_t k = 0; k < s.d; ++k) total += turned[k * height + r] * positions[k * s.stride + c];
          rows[r * s.room() + c] = total;
        }
      continue;
    }
    for (int64_t c = 0; c < s.columns; c += COLUMNS) {
      const int64_t column = std::min(c, s.columns - COLUMNS); // the last ones again, if need be
      TILES[height](turned, positions + column, s.stride, s.d, rows + column, s.room());
    }
  }
}

// One stream's heads, or some of them. All rows of scores and sums are those of (head, query), heads first.
struct Unit {
  const float* cells;    // of the first head, in the ring's row 0
  int64_t pitch;         // from row to row
  const int64_t* frames; // the rows of the keys
  const bool* unseen;    // (queries, keys)
  int64_t heads;
  const float* content; // (rows, padded(D)): q + u
  const float* distant; // (rows, room): (q + v) p
  float* scores;         // (rows, room)
  float* sums;           // (rows, padded(D))
  __m256i mask;

  void fetch(int64_t key, int64_t begin, const Sizes& s) const {
    const float* from = cells + frames[std::min(key, s.keys - 1)] * pitch + begin;
    for (int64_t k = 0; k < heads * s.d; k += 16) _mm_prefetch(reinterpret_cast<const char*>(from + k), _MM_HINT_T0);
  }

  template <int V, bool PART>
  void score(const Sizes& s) const {
    const int64_t room = s.room();
    for (int64_t j = 0; j < s.keys; ++j) {
      fetch(j + 2, 0, s);
      for (int64_t h = 0; h < heads; ++h) {
        const float* from = cells + frames[j] * pitch + h * s.d;
        __m256 key[V];
#pragma GCC unroll 16
        for (int n = 0; n < V - 1; ++n) key[n] = _mm256_loadu_ps(from + n * LANES);
        key[V - 1] = last<PART>(from + (V - 1) * LANES, mask);
        for (int64_t i = 0; i < s.queries; ++i) {
          const int64_t row = h * s.queries + i;
          const float* query = content + row * V * LANES;
          __m256 even = _mm256_mul_ps(key[0], _mm256_loadu_ps(query)), odd = _mm256_setzero_ps();
#pragma GCC unroll 16
          for (int n = 1; n < V; ++n) {
            __m256& total = n % 2 ? odd : even;
            total = _mm256_fmadd_ps(key[n], _mm256_loadu_ps(query + n * LANES), total);
          }
          const float distance = distant[row * room + s.queries - 1 - i + j];
          scores[row * room + j] = sum(_mm256_add_ps(even, odd)) + (unseen[i * s.keys + j] ? HIDDEN : distance);
        }
      }
    }
  }

  template <int V, bool PART>
  void add_values(const Sizes& s) const {
    const int64_t room = s.room();
    for (int64_t j = 0; j < s.keys; j += FOUR) {
      const float* value[FOUR]; // after the last key the last one again, with a share of 0
      for (int64_t m = 0; m < FOUR; ++m) {
        value[m] = cells + frames[std::min(j + m, s.keys - 1)] * pitch + s.width;
        fetch(j + m + FOUR, s.width, s);
      }
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < s.queries; ++i) {
          const int64_t row = h * s.queries + i;
          __m256 share[FOUR];
#pragma GCC unroll 4
          for (int m = 0; m < FOUR; ++m) share[m] = _mm256_broadcast_ss(scores + row * room + j + m);
          float* to = sums + row * V * LANES;
#pragma GCC unroll 16
          for (int n = 0; n < V; ++n) {
            __m256 total = _mm256_loadu_ps(to + n * LANES);
#pragma GCC unroll 4
            for (int m = 0; m < FOUR; ++m) {
              const float* from = value[m] + h * s.d + n * LANES;
              total = _mm256_fmadd_ps(share[m], n < V - 1 ? _mm256_loadu_ps(from) : last<PART>(from, mask), total);
            }
            _mm256_storeu_ps(to + n * LANES, total);
          }
        }
    }
  }
};

using Pass = void (Unit::*)(const Sizes&) const;

struct Passes {
  Pass score, add_values;
};

template <int... V>
constexpr std::array<Passes, sizeof...(V)> passes(std::integer_sequence<int, V...>) {
  return {Passes{&Unit::score<V / 2 + 1, V % 2 == 1>, &Unit::add_values<V / 2 + 1, V % 2 == 1>}...};
}

// query: (B, Q, heads x D); table: (rows, 2 x heads x D); rows: (B, N) int64, each query's keys; hidden: (B, 1, Q, N)
// bool; u, v: (heads x D); positions: (heads, D, columns), of which the first one used is `first`. Returns (B, Q, heads
// x D). The key at place j lies Q - 1 - i + j columns after `first` for query i.
at::Tensor attend(const at::Tensor& query, const at::Tensor& table, const at::Tensor& rows, const at::Tensor& hidden,
                  const at::Tensor& u, const at::Tensor& v, const at::Tensor& positions, int64_t first) {
  TORCH_CHECK(query.dim() == 3 && rows.dim() == 2 && table.dim() == 2 && positions.dim() == 3 && hidden.dim() == 4,
              "attend: dimensions");
  Sizes s{};
  s.batch = query.size(0), s.queries = query.size(1), s.width = query.size(2);
  s.keys = rows.size(1), s.heads = positions.size(0), s.d = positions.size(1), s.stride = positions.size(2);
  s.columns = s.keys + s.queries - 1;
  TORCH_CHECK(s.d > 0 && s.d <= DEEPEST && s.keys > 0 && s.heads * s.d == s.width && table.size(1) == 2 * s.width &&
                  rows.size(0) == s.batch && hidden.sizes() == at::IntArrayRef({s.batch, 1, s.queries, s.keys}) &&
                  u.numel() == s.width && v.numel() == s.width && first >= 0 && first + s.columns <= s.stride,
              "attend: query ", query.sizes(), ", table ", table.sizes(), ", rows ", rows.sizes(), ", hidden ",
              hidden.sizes(), ", u ", u.sizes(), ", v ", v.sizes(), ", positions ", positions.sizes(), " from ", first,
              " do not fit");
  const at::Tensor asked = query.contiguous(), numbers = rows.contiguous(), masked = hidden.contiguous();
  const at::Tensor result = at::empty_like(asked);
  const float *q = asked.const_data_ptr<float>(), *cells = table.const_data_ptr<float>();
  const float *at_u = u.const_data_ptr<float>(), *at_v = v.const_data_ptr<float>();
  const float* place = positions.const_data_ptr<float>() + first;
  const int64_t* number = numbers.const_data_ptr<int64_t>();
  const bool* unseen = masked.const_data_ptr<bool>();
  float* out = result.data_ptr<float>();
  const int64_t pitch = table.stride(0), total = table.size(0);
  TORCH_CHECK(table.stride(1) == 1 && positions.is_contiguous() && u.is_contiguous() && v.is_contiguous(),
              "attend: memory");
  for (int64_t i = 0; i < numbers.numel(); ++i)
    TORCH_CHECK_INDEX(number[i] >= 0 && number[i] < total, "attend: row ", number[i], " of ", total);

  static constexpr auto PASSES = passes(std::make_integer_sequence<int, 2 * DEEPEST / LANES>());
  const Passes pass = PASSES[(padded(s.d) / LANES - 1) * 2 + (s.d % LANES ? 1 : 0)];
  alignas(32) int32_t lanes[LANES];
  for (int64_t i = 0; i < LANES; ++i) lanes[i] = i < s.d - (padded(s.d) - LANES) ? -1 : 0;
  const __m256i mask = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
  const int64_t deep = padded(s.d), room = s.room();
  // all heads of a stream together, but where there are too few streams for the threads
  const int64_t groups = s.batch < 2 * at::get_num_threads() ? s.heads : 1, each = s.heads / groups;

  at::parallel_for(0, s.batch * groups, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> content(new float[each * s.queries * deep]()); // (q + u), padded
    const std::unique_ptr<float[]> sums(new float[each * s.queries * deep]);
    const std::unique_ptr<float[]> distant(new float[each * s.queries * room]);
    const std::unique_ptr<float[]> scores(new float[each * s.queries * room]);
    const std::unique_ptr<float[]> turned(new float[HEIGHT * s.d]);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t b = part / groups, from = part % groups * each;
      for (int64_t h = 0; h < each; ++h) {
        const int64_t at = (from + h) * s.d;
        near(q + b * s.queries * s.width + at, at_v + at, place + (from + h) * s.d * s.stride, s, turned.get(),
             distant.get() + h * s.queries * room);
        for (int64_t i = 0; i < s.queries; ++i)
          for (int64_t k = 0; k < s.d; ++k)
            content[(h * s.queries + i) * deep + k] = q[(b * s.queries + i) * s.width + at + k] + at_u[at + k];
      }
      const Unit unit{cells + from * s.d,
                      pitch,
                      number + b * s.keys,
                      unseen + b * s.queries * s.keys,
                      each,
                      content.get(),
                      distant.get(),
                      scores.get(),
                      sums.get(),
                      mask};
      (unit.*pass.score)(s);
      for (int64_t row = 0; row < each * s.queries; ++row) softmax(&scores[row * room], s.keys);
      std::fill_n(sums.get(), each * s.queries * deep, 0.0f);
      (unit.*pass.add_values)(s);
      for (int64_t h = 0; h < each; ++h)
        for (int64_t i = 0; i < s.queries; ++i)
          std::copy_n(&sums[(h * s.queries + i) * deep], s.d, out + (b * s.queries + i) * s.width + (from + h) * s.d);
    }
  });
  return result;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(trunkline, library) {
  library.def(
      "attend(Tensor query, Tensor table, Tensor rows, Tensor hidden, Tensor u, Tensor v, Tensor positions, int first)"
      " -> Tensor");
}
TORCH_LIBRARY_IMPL(trunkline, CPU, library) { library.impl("attend", attend); }
