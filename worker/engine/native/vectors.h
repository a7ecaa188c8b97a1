// Vectors of eight floats (AVX2, FMA), for all operations.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace trunkline {

constexpr int64_t LANES = 8;

inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

inline float sum(__m256 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

// e^x for x <= 0: 2^n times a polynomial of the rest (the minimax one of Cephes' expf, relative error 2e-7).
inline __m256 exponential(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-87.0f), x); // in this order what is not a number stays so
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  x = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  x = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), x);
  __m256 y = _mm256_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(c));
  y = _mm256_fmadd_ps(y, _mm256_mul_ps(x, x), _mm256_add_ps(x, _mm256_set1_ps(1.0f)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(y, _mm256_castsi256_ps(power));
}

// 1 / (1 + e^-x), without an e^x that overflows.
inline __m256 sigmoid(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps();
  const __m256 power = exponential(_mm256_min_ps(x, _mm256_sub_ps(zero, x)));
  const __m256 above = _mm256_blendv_ps(power, one, _mm256_cmp_ps(x, zero, _CMP_GE_OQ));
  return _mm256_div_ps(above, _mm256_add_ps(one, power));
}

} // namespace trunkline
