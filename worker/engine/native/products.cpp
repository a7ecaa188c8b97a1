// Linear maps in float32 for x86-64 with AVX2 and FMA: y = x W^T + b, the weights packed once.
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
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <optional>

namespace {

constexpr int64_t PANEL = 16;    // outputs
constexpr int64_t HEIGHT = 6;    // rows at once
constexpr int64_t ROWS = 48;     // rows that read a panel's weights while they are in the nearest caches
constexpr int64_t AHEAD = 512;   // floats, 2 kB: how far before their use weights are fetched from memory
constexpr int64_t GRAIN = 40000; // multiply-adds worth a thread

// rows: (inputs, R); panel: (inputs, PANEL); y: R rows of PANEL outputs, `stride` apart.
template <int R>
void tile(const float* rows, const float* panel, const float* bias, int64_t inputs, float* y, int64_t stride) {
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
  for (int r = 0; r < R; ++r) {
    _mm256_storeu_ps(y + r * stride, low[r]);
    _mm256_storeu_ps(y + r * stride + 8, high[r]);
  }
}

using Tile = void (*)(const float*, const float*, const float*, int64_t, float*, int64_t);
constexpr Tile TILES[HEIGHT + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

// Rows in as few groups as there can be, of as equal heights as can be.
struct Groups {
  int64_t count, height, higher;

  explicit Groups(int64_t rows)
      : count((rows + HEIGHT - 1) / HEIGHT), height(count ? rows / count : 0), higher(count ? rows % count : 0) {}
  int64_t start(int64_t group) const { return group * height + std::min(group, higher); }
};

// weight: (outputs, inputs). Returns (panels, inputs, PANEL), zero past the last output.
at::Tensor pack(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.is_cpu(), "pack: (N, K) float32");
  const int64_t outputs = weight.size(0), panels = (outputs + PANEL - 1) / PANEL;
  const at::Tensor padded = weight.new_zeros({panels * PANEL, weight.size(1)});
  padded.narrow(0, 0, outputs).copy_(weight);
  return padded.view({panels, PANEL, weight.size(1)}).transpose(1, 2).contiguous();
}

// x: (..., inputs); packed: as `pack` gives it; bias: (outputs,) or none. Returns (..., outputs).
at::Tensor product(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias, int64_t outputs) {
  const int64_t panels = packed.size(0), inputs = packed.size(1);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_cpu() && x.dim() > 0 && x.size(-1) == inputs, "product: x is ",
              x.scalar_type(), " ", x.sizes(), ", not (..., ", inputs, ") float32");
  TORCH_CHECK(outputs > (panels - 1) * PANEL && outputs <= panels * PANEL, "product: ", panels, " panels are not ",
              outputs, " outputs");
  TORCH_CHECK(!bias || (bias->numel() == outputs && bias->scalar_type() == at::kFloat), "product: bias");
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  const at::Tensor y = at::empty(shape, x.options());
  const at::Tensor input = x.contiguous();
  const int64_t rows = input.numel() / std::max<int64_t>(inputs, 1);
  if (rows == 0) return y;

  const float *from = input.const_data_ptr<float>(), *weights = packed.const_data_ptr<float>();
  float* to = y.data_ptr<float>();
  const Groups groups(rows);
  // each group's rows side by side, as `tile` reads them
  const std::unique_ptr<float[]> turned(new float[rows * inputs]);
  at::parallel_for(0, groups.count, std::max<int64_t>(1, GRAIN / (HEIGHT * inputs)), [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = groups.start(group), height = groups.start(group + 1) - first;
      float* out = turned.get() + first * inputs;
      for (int64_t r = 0; r < height; ++r)
        for (int64_t k = 0; k < inputs; ++k) out[k * height + r] = from[(first + r) * inputs + k];
    }
  });

  const std::unique_ptr<float[]> shift(new float[panels * PANEL]());
  if (bias) {
    const at::Tensor values = bias->contiguous();
    std::copy_n(values.const_data_ptr<float>(), outputs, shift.get());
  }
  const int64_t grain = std::max<int64_t>(1, GRAIN / (rows * inputs * PANEL));
  at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    float edge[HEIGHT * PANEL];
    for (int64_t low = 0; low < groups.count; low += ROWS / HEIGHT) {
      const int64_t high = std::min(groups.count, low + ROWS / HEIGHT);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t column = panel * PANEL, width = std::min(PANEL, outputs - column);
        for (int64_t group = low; group < high; ++group) {
          const int64_t first = groups.start(group), height = groups.start(group + 1) - first;
          const bool whole = width == PANEL;
          float* out = to + first * outputs + column;
          TILES[height](turned.get() + first * inputs, weights + column * inputs, shift.get() + column, inputs,
                        whole ? out : edge, whole ? outputs : PANEL);
          for (int64_t r = 0; !whole && r < height; ++r) std::copy_n(edge + r * PANEL, width, out + r * outputs);
        }
      }
    }
  });
  return y;
}

// The same of tensors without data.
at::Tensor product_shape(const at::Tensor& x, const at::Tensor&, const std::optional<at::Tensor>&, int64_t outputs) {
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  return at::empty(shape, x.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(trunkline, library) {
  library.def("pack(Tensor weight) -> Tensor", pack);
  library.def("product(Tensor x, Tensor packed, Tensor? bias, int outputs) -> Tensor");
}
TORCH_LIBRARY_IMPL(trunkline, CPU, library) { library.impl("product", product); }
TORCH_LIBRARY_IMPL(trunkline, Meta, library) { library.impl("product", product_shape); }
