// Linear maps in float32 for x86-64 with AVX2 and FMA, with what stands before and after them in a Conformer's layer:
// y = after(before(x) W^T + b) + residual, the weights packed once.
//
// Outputs are taken 16 at a time, a *panel*: two vectors of eight. A panel holds, for each input, the 16 weights of
// its outputs side by side, so that a product reads all weights once and in the order in which they lie, for up to
// ROWS rows. Rows are taken up to 6 at a time: 6 x 2 accumulators, two vectors of weights and one value of a row
// broadcast are what the 16 registers hold (the "micro-kernel" of Goto and van de Geijn, Anatomy of
// High-Performance Matrix Multiplication, 2008).
//
// An output is the bias plus its inputs' products in their order, whatever other rows there are: its bits do not
// depend on the batch.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <tuple>

#include "vectors.h"

namespace {

using namespace trunkline;

constexpr int64_t PANEL = 16;    // outputs
constexpr int64_t HEIGHT = 6;    // rows at once
constexpr int64_t ROWS = 48;     // rows that read a panel's weights while they are in the nearest caches
constexpr int64_t AHEAD = 512;   // floats, 2 kB: how far before their use weights are fetched from memory
constexpr int64_t GRAIN = 40000; // multiply-adds worth a thread

enum After : int64_t { NOTHING, SILU, GLU };

// What becomes of a panel's outputs. With GLU the panel is eight values, then their eight gates, and gives eight.
struct End {
  After after;

  void operator()(__m256 low, __m256 high, float* y, const float* beside) const {
    if (after == GLU) {
      low = _mm256_mul_ps(low, sigmoid(high));
    } else if (after == SILU) {
      low = _mm256_mul_ps(low, sigmoid(low));
      high = _mm256_mul_ps(high, sigmoid(high));
    }
    if (beside) low = _mm256_add_ps(low, _mm256_loadu_ps(beside));
    _mm256_storeu_ps(y, low);
    if (after == GLU) return;
    if (beside) high = _mm256_add_ps(high, _mm256_loadu_ps(beside + LANES));
    _mm256_storeu_ps(y + LANES, high);
  }
};

// rows: (inputs, R); panel: (inputs, PANEL); y: R rows, and `beside` what is added to them.
template <int R>
void tile(const float* rows, const float* panel, const float* bias, int64_t inputs, const End& end, float* y,
          int64_t stride, const float* beside) {
  __m256 low[R], high[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    low[r] = _mm256_loadu_ps(bias);
    high[r] = _mm256_loadu_ps(bias + 8);
  }
#pragma GCC unroll 2
  for (int64_t k = 0; k < inputs; ++k) {
    _mm_prefetch(reinterpret_cast<const char*>(panel + AHEAD), _MM_HINT_T0);
    const __m256 first = _mm256_loadu_ps(panel), second = _mm256_loadu_ps(panel + 8);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 value = _mm256_broadcast_ss(rows + r);
      low[r] = _mm256_fmadd_ps(value, first, low[r]);
      high[r] = _mm256_fmadd_ps(value, second, high[r]);
    }
    panel += PANEL;
    rows += R;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) end(low[r], high[r], y + r * stride, beside ? beside + r * stride : nullptr);
}

using Tile = void (*)(const float*, const float*, const float*, int64_t, const End&, float*, int64_t, const float*);
constexpr Tile TILES[HEIGHT + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

// Rows in as few groups as there can be, of as equal heights as can be.
struct Groups {
  int64_t count, height, higher;

  explicit Groups(int64_t rows)
      : count((rows + HEIGHT - 1) / HEIGHT), height(count ? rows / count : 0), higher(count ? rows % count : 0) {}
  int64_t start(int64_t group) const { return group * height + std::min(group, higher); }
};

// weight: (N, K), bias: (N,) or none; with `glu` the first half of N are values, the second their gates. Returns the
// panels (P, K, PANEL) and the biases in their order (P x PANEL), zero past the last output.
std::tuple<at::Tensor, at::Tensor> pack(const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool glu) {
  TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.is_cpu(), "pack: (N, K) float32");
  const int64_t inputs = weight.size(1), halves = glu ? 2 : 1, outputs = weight.size(0) / halves;
  const int64_t width = PANEL / halves, panels = (outputs + width - 1) / width;
  const auto ordered = [&](const at::Tensor& rows) { // (N, ...) to (P x PANEL, ...)
    const int64_t columns = rows.numel() / rows.size(0);
    const at::Tensor room = rows.new_zeros({halves, panels * width, columns});
    room.narrow(1, 0, outputs).copy_(rows.reshape({halves, outputs, columns}));
    return room.view({halves, panels, width, columns}).transpose(0, 1).reshape({panels * PANEL, columns});
  };
  return {ordered(weight).view({panels, PANEL, inputs}).transpose(1, 2).contiguous(),
          bias ? ordered(*bias).flatten() : weight.new_zeros({panels * PANEL})};
}

// What is done to a row before it is multiplied.
struct Begin {
  const float *scale, *shift; // of a layer norm, or none
  float epsilon;
  bool silu;

  bool nothing() const { return !scale && !silu; }

  void operator()(const float* x, int64_t size, float* y) const {
    float mean = 0, factor = 1;
    if (scale) {
      mean = total(x, size, [](__m256 value) { return value; }, [](float value) { return value; }) / size;
      const __m256 means = _mm256_set1_ps(mean);
      const auto square = [&](float value) { return (value - mean) * (value - mean); };
      const auto squares = [&](__m256 value) {
        const __m256 off = _mm256_sub_ps(value, means);
        return _mm256_mul_ps(off, off);
      };
      factor = 1.0f / std::sqrt(total(x, size, squares, square) / size + epsilon);
    }
    int64_t k = 0;
    const __m256 means = _mm256_set1_ps(mean), factors = _mm256_set1_ps(factor);
    for (; k + LANES <= size; k += LANES) {
      __m256 value = _mm256_loadu_ps(x + k);
      if (scale) {
        value = _mm256_mul_ps(_mm256_sub_ps(value, means), factors);
        value = _mm256_fmadd_ps(value, _mm256_loadu_ps(scale + k), _mm256_loadu_ps(shift + k));
      }
      _mm256_storeu_ps(y + k, silu ? _mm256_mul_ps(value, sigmoid(value)) : value);
    }
    for (; k < size; ++k) {
      const float value = scale ? (x[k] - mean) * factor * scale[k] + shift[k] : x[k];
      y[k] = silu ? value / (1.0f + std::exp(-value)) : value;
    }
  }

 private:
  template <typename Vector, typename Scalar>
  static float total(const float* x, int64_t size, const Vector& of_eight, const Scalar& of_one) {
    __m256 eight = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + LANES <= size; k += LANES) eight = _mm256_add_ps(eight, of_eight(_mm256_loadu_ps(x + k)));
    float found = sum(eight);
    for (; k < size; ++k) found += of_one(x[k]);
    return found;
  }
};

const float* floats(const std::optional<at::Tensor>& tensor, int64_t size, const char* name) {
  if (!tensor) return nullptr;
  TORCH_CHECK(tensor->scalar_type() == at::kFloat && tensor->is_contiguous() && tensor->numel() == size, "product: ",
              name, " is ", tensor->scalar_type(), " ", tensor->sizes(), ", not ", size, " contiguous float32");
  return tensor->const_data_ptr<float>();
}

// x: (..., inputs); packed, bias: as `pack` gives them; before: a layer norm's scale and shift (inputs,) and epsilon, a
// SiLU; after: 0 nothing, 1 SiLU, 2 GLU; residual: as the result. Returns (..., outputs).
at::Tensor product(const at::Tensor& x, const at::Tensor& packed, const at::Tensor& bias, int64_t outputs,
                   const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& shift, double epsilon,
                   bool silu, int64_t after, const std::optional<at::Tensor>& residual) {
  const int64_t panels = packed.size(0), inputs = packed.size(1), width = after == GLU ? PANEL / 2 : PANEL;
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_cpu() && x.dim() > 0 && x.size(-1) == inputs, "product: x is ",
              x.scalar_type(), " ", x.sizes(), ", not (..., ", inputs, ") float32");
  TORCH_CHECK(outputs > (panels - 1) * width && outputs <= panels * width, "product: ", panels, " panels are not ",
              outputs, " outputs");
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  TORCH_CHECK(inputs > 0 && after >= NOTHING && after <= GLU, "product: ", inputs, " inputs, after ", after);
  TORCH_CHECK(!residual || residual->sizes() == at::IntArrayRef(shape), "product: residual is ",
              residual->sizes(), ", not ", at::IntArrayRef(shape));
  const at::Tensor y = at::empty(shape, x.options());
  const at::Tensor input = x.contiguous();
  const int64_t rows = input.numel() / inputs;
  if (rows == 0) return y;
  const std::optional<at::Tensor> added = residual ? std::optional(residual->contiguous()) : std::nullopt;

  const Begin prepare{floats(scale, inputs, "scale"), floats(shift, inputs, "shift"), float(epsilon), silu};
  TORCH_CHECK(!prepare.scale == !prepare.shift, "product: a scale goes with a shift");
  const End end{static_cast<After>(after)};
  const float *from = input.const_data_ptr<float>(), *weights = packed.const_data_ptr<float>();
  const float *biases = floats(bias, panels * PANEL, "bias"), *beside = floats(added, rows * outputs, "residual");
  float* to = y.data_ptr<float>();
  const Groups groups(rows);
  // each group's rows side by side, as `tile` reads them
  const std::unique_ptr<float[]> turned(new float[rows * inputs]);
  at::parallel_for(0, groups.count, std::max<int64_t>(1, GRAIN / (HEIGHT * inputs)), [&](int64_t low, int64_t high) {
    const std::unique_ptr<float[]> line(new float[inputs]);
    for (int64_t group = low; group < high; ++group) {
      const int64_t first = groups.start(group), height = groups.start(group + 1) - first;
      float* out = turned.get() + first * inputs;
      for (int64_t r = 0; r < height; ++r) {
        const float* row = from + (first + r) * inputs;
        if (!prepare.nothing()) {
          prepare(row, inputs, line.get());
          row = line.get();
        }
        for (int64_t k = 0; k < inputs; ++k) out[k * height + r] = row[k];
      }
    }
  });

  const int64_t grain = std::max<int64_t>(1, GRAIN / (rows * inputs * PANEL));
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t past) {
    float edge[HEIGHT * PANEL];
    for (int64_t low = 0; low < groups.count; low += ROWS / HEIGHT) {
      const int64_t high = std::min(groups.count, low + ROWS / HEIGHT);
      for (int64_t panel = begin; panel < past; ++panel) {
        const int64_t column = panel * width, whole = std::min(width, outputs - column);
        for (int64_t group = low; group < high; ++group) {
          const int64_t first = groups.start(group), height = groups.start(group + 1) - first;
          const float *mine = turned.get() + first * inputs, *theirs = weights + panel * PANEL * inputs;
          float* out = to + first * outputs + column;
          const float* other = beside ? beside + first * outputs + column : nullptr;
          if (whole == width) {
            TILES[height](mine, theirs, biases + panel * PANEL, inputs, end, out, outputs, other);
            continue;
          }
          TILES[height](mine, theirs, biases + panel * PANEL, inputs, end, edge, PANEL, nullptr);
          for (int64_t r = 0; r < height; ++r)
            for (int64_t n = 0; n < whole; ++n)
              out[r * outputs + n] = edge[r * PANEL + n] + (other ? other[r * outputs + n] : 0.0f);
        }
      }
    }
  });
  return y;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(trunkline, library) {
  library.def("pack(Tensor weight, Tensor? bias, bool glu) -> (Tensor, Tensor)", pack);
  library.def(
      "product(Tensor x, Tensor packed, Tensor bias, int outputs, Tensor? scale, Tensor? shift, float epsilon,"
      " bool silu, int after, Tensor? residual) -> Tensor");
}
TORCH_LIBRARY_IMPL(trunkline, CPU, library) { library.impl("product", product); }
