/* vec.h: the SIMD vocabulary. One virtual vector `vf` of 16 floats on every ISA, so that every kernel is
 * written once and gives the same bits everywhere:
 *   - lanes never mix except in v_compress, v_zip_low, v_zip_high, v_sum, v_sum_double (the same in float64) and
 *     v_max_lane; the tree of these three is fixed (i with i+8, then i+4, i+2, i+1);
 *   - fma happens only through v_fma (the build forbids contraction); the generic body emulates it exactly;
 *   - v_max(a, b) is a > b ? a : b, so a NaN in `a` yields b and a NaN in `b` yields NaN; v_min is a < b ? a : b;
 *   - v_scale(a, n) is a * 2^n rounded once, for 0.5 < a < 2 and integers -252 <= n <= 254;
 *   - v_select_mask(mask, yes, no) takes the lanes named by the mask from `yes`;
 *   - v_compress(p, mask, a) writes the lanes named by the mask to p, in order and close together; returns how many.
 *     All 16 floats at p may be written;
 *   - v_load_quarters(a, b, c, d) loads 4 floats from each; v_zip_low(a, b) is a0 b0 a1 b1 in every quarter,
 *     v_zip_high(a, b) a2 b2 a3 b3. The generic body has none of the three: plain loops serve it as well.
 * The including file defines exactly one of GPT2C_ISA_GENERIC, GPT2C_ISA_AVX2, GPT2C_ISA_AVX512.
 *
 * TILE_COLS(rows) is the widest column strip, in vectors, that a tile of so many rows keeps in registers;
 * it divides 4, the vectors in a panel of 64 outputs. QUAD_COLS and QUAD_ROWS, the most rows, are the same for tiles of
 * integers over half a panel; NIBBLE_COLS and NIBBLE_ROWS where int4 weights are multiplied without being unpacked.
 */
#ifndef GPT2C_VEC_H
#define GPT2C_VEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_INLINE static inline __attribute__((always_inline))
#define VEC_LANES 16
/* Keeps in its register what v_load_once and v_load_bytes have loaded. As an operand in memory of two instructions it
 * would be loaded twice, and memory that is read line by line then comes at five sixths of the speed. */
#define v_keep(x) __asm__("" : "+v"(x))

#if defined(GPT2C_ISA_AVX512)
#include <immintrin.h>

#define TILE_COLS(rows) 4
#define QUAD_COLS(rows) 2
#define NIBBLE_COLS(rows) 2
#if defined(GPT2C_ISA_VNNI)
#define QUAD_ROWS 12
#define NIBBLE_ROWS 8
#else
#define QUAD_ROWS 8
#define NIBBLE_ROWS 4
#endif

typedef __m512 vf;

VEC_INLINE __mmask16 v_first_lanes(ptrdiff_t n) { return n >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1U << n) - 1U); }
VEC_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
VEC_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE vf v_load_once(const float *p) {
    __m512 x = v_load(p);
    v_keep(x);
    return x;
}
VEC_INLINE vf v_load_first(const float *p, ptrdiff_t n) { return _mm512_maskz_loadu_ps(v_first_lanes(n), p); }
VEC_INLINE void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
VEC_INLINE void v_store_first(float *p, vf a, ptrdiff_t n) { _mm512_mask_storeu_ps(p, v_first_lanes(n), a); }
VEC_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC_INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
VEC_INLINE vf v_copysign(vf magnitude, vf sign) {
    const __m512i bit = _mm512_set1_epi32((int)0x80000000U);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(bit, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xCA));
}
VEC_INLINE vf v_select_lt(vf a, vf b, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
VEC_INLINE vf v_keep_first(vf a, ptrdiff_t n, vf fill) { return _mm512_mask_blend_ps(v_first_lanes(n), fill, a); }
VEC_INLINE unsigned v_mask_lt(vf a, vf b) { return (unsigned)_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
VEC_INLINE vf v_select_mask(unsigned mask, vf yes, vf no) { return _mm512_mask_blend_ps((__mmask16)mask, no, yes); }
VEC_INLINE vf v_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); }
VEC_INLINE ptrdiff_t v_compress(float *p, unsigned mask, vf a) {
    v_store(p, _mm512_maskz_compress_ps((__mmask16)mask, a));
    return __builtin_popcount(mask);
}

VEC_INLINE vf v_load_quarters(const float *a, const float *b, const float *c, const float *d) {
    const vf half = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
    return _mm512_insertf32x4(_mm512_insertf32x4(half, _mm_loadu_ps(c), 2), _mm_loadu_ps(d), 3);
}
VEC_INLINE vf v_zip_low(vf a, vf b) { return _mm512_unpacklo_ps(a, b); }
VEC_INLINE vf v_zip_high(vf a, vf b) { return _mm512_unpackhi_ps(a, b); }

VEC_INLINE __m256 v_upper_half(vf a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
#define V_FOLD8(a, op) op(_mm512_castps512_ps256(a), v_upper_half(a))
VEC_INLINE __m256d v_fold4_double(vf a) {
    const __m512d eight = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(v_upper_half(a)));
    return _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
}

#elif defined(GPT2C_ISA_AVX2)
#include <immintrin.h>

#define TILE_COLS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define NIBBLE_COLS(rows) 1
#if defined(GPT2C_ISA_VNNI)
#define QUAD_COLS(rows) ((rows) <= 3 ? 2 : 1)
#define QUAD_ROWS 6
#define NIBBLE_ROWS 3
#else
#define QUAD_COLS(rows) ((rows) <= 2 ? 2 : 1)
#define QUAD_ROWS 4
#define NIBBLE_ROWS 2
#endif

typedef struct {
    __m256 lo, hi;
} vf;

#define V_EACH(op, a, b) ((vf){op((a).lo, (b).lo), op((a).hi, (b).hi)})

VEC_INLINE __m256i v_first_lanes(ptrdiff_t n) { /* lane i is all ones where i < n */
    const int count = n <= 0 ? 0 : n >= 8 ? 8 : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC_INLINE vf v_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VEC_INLINE vf v_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VEC_INLINE vf v_load_once(const float *p) {
    vf x = v_load(p);
    v_keep(x.lo);
    v_keep(x.hi);
    return x;
}
VEC_INLINE vf v_load_first(const float *p, ptrdiff_t n) {
    const float *second = n > 8 ? p + 8 : p; /* never form an address past the caller's array */
    return (vf){_mm256_maskload_ps(p, v_first_lanes(n)), _mm256_maskload_ps(second, v_first_lanes(n - 8))};
}
VEC_INLINE void v_store(float *p, vf a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
VEC_INLINE void v_store_first(float *p, vf a, ptrdiff_t n) {
    _mm256_maskstore_ps(p, v_first_lanes(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, v_first_lanes(n - 8), a.hi);
}
VEC_INLINE vf v_add(vf a, vf b) { return V_EACH(_mm256_add_ps, a, b); }
VEC_INLINE vf v_sub(vf a, vf b) { return V_EACH(_mm256_sub_ps, a, b); }
VEC_INLINE vf v_mul(vf a, vf b) { return V_EACH(_mm256_mul_ps, a, b); }
VEC_INLINE vf v_div(vf a, vf b) { return V_EACH(_mm256_div_ps, a, b); }
VEC_INLINE vf v_fma(vf a, vf b, vf c) {
    return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
VEC_INLINE vf v_max(vf a, vf b) { return V_EACH(_mm256_max_ps, a, b); }
VEC_INLINE vf v_min(vf a, vf b) { return V_EACH(_mm256_min_ps, a, b); }
VEC_INLINE vf v_abs(vf a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (vf){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
VEC_INLINE vf v_copysign(vf magnitude, vf sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return (vf){_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.lo), _mm256_and_ps(bit, sign.lo)),
                _mm256_or_ps(_mm256_andnot_ps(bit, magnitude.hi), _mm256_and_ps(bit, sign.hi))};
}
VEC_INLINE vf v_select_lt(vf a, vf b, vf yes, vf no) {
    return (vf){_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
VEC_INLINE vf v_keep_first(vf a, ptrdiff_t n, vf fill) {
    return (vf){_mm256_blendv_ps(fill.lo, a.lo, _mm256_castsi256_ps(v_first_lanes(n))),
                _mm256_blendv_ps(fill.hi, a.hi, _mm256_castsi256_ps(v_first_lanes(n - 8)))};
}
VEC_INLINE unsigned v_mask_lt(vf a, vf b) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)) << 8;
}
VEC_INLINE __m256 v_lanes_of(unsigned mask, int first) { /* the sign of lane i is bit first + i */
    const __m256i places = _mm256_sub_epi32(_mm256_set1_epi32(31 - first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_set1_epi32((int)mask), places));
}
VEC_INLINE vf v_select_mask(unsigned mask, vf yes, vf no) {
    return (vf){_mm256_blendv_ps(no.lo, yes.lo, v_lanes_of(mask, 0)),
                _mm256_blendv_ps(no.hi, yes.hi, v_lanes_of(mask, 8))};
}
VEC_INLINE __m256 v_pow2_half(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
VEC_INLINE vf v_pow2(vf n) { return (vf){v_pow2_half(n.lo), v_pow2_half(n.hi)}; }
VEC_INLINE vf v_load_quarters(const float *a, const float *b, const float *c, const float *d) {
    return (vf){_mm256_loadu2_m128(b, a), _mm256_loadu2_m128(d, c)};
}
VEC_INLINE vf v_zip_low(vf a, vf b) { return V_EACH(_mm256_unpacklo_ps, a, b); }
VEC_INLINE vf v_zip_high(vf a, vf b) { return V_EACH(_mm256_unpackhi_ps, a, b); }

#define V_FOLD8(a, op) op((a).lo, (a).hi)
VEC_INLINE __m256d v_fold4_double(vf a) {
    const __m256d low =
        _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a.lo)), _mm256_cvtps_pd(_mm256_castps256_ps128(a.hi)));
    const __m256d high =
        _mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1)));
    return _mm256_add_pd(low, high);
}

#elif defined(GPT2C_ISA_GENERIC)

#define TILE_COLS(rows) 1
#define QUAD_COLS(rows) 1
#define QUAD_ROWS 6
#define NIBBLE_COLS(rows) 1
#define NIBBLE_ROWS 8

/* GCC and Clang split this vector over whatever registers the CPU has. They may warn (-Wpsabi) that its calling
 * convention depends on the ISA, which does not matter: no such call leaves the translation unit. */
typedef float vf __attribute__((vector_size(4 * VEC_LANES)));
/* What a comparison gives: all ones in the lanes where it holds. */
typedef int32_t lane_bits __attribute__((vector_size(4 * VEC_LANES)));

/* Out of line: inlined everywhere, loops over lanes take ten times as long to compile and run no faster. */
#define VEC_CALL static __attribute__((noinline))
#define V_LANES(result, expression)                                                                                    \
    vf result;                                                                                                         \
    for (int i = 0; i < VEC_LANES; i++) (result)[i] = (expression);                                                    \
    return result

/* a * b + c rounded once. The product of two floats is exact in double; the sum is rounded to odd (the discarded
 * part, which the two-sum recovers exactly, sets the last bit), so that the final rounding to float sees it
 * (S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums", 2008). Without branches, so that it is
 * vectorised. If the sum is infinite or NaN, `lost` is NaN and neither comparison holds. */
VEC_INLINE float fma_exact(float a, float b, float c) {
    const double product = (double)a * (double)b, addend = (double)c;
    const double sum = product + addend;
    const double of_addend = sum - product;
    const double lost = (product - (sum - of_addend)) + (addend - of_addend);
    uint64_t bits, lost_bits;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&lost_bits, &lost, sizeof lost_bits);
    const uint64_t away_from_zero = (bits ^ lost_bits) >> 63; /* 1 where the lost part has the other sign */
    const uint64_t odd = (bits - away_from_zero) | 1U;
    bits = lost < 0.0 || lost > 0.0 ? odd : bits;
    double rounded;
    memcpy(&rounded, &bits, sizeof rounded);
    return (float)rounded;
}

VEC_INLINE vf choose(lane_bits mask, vf yes, vf no) { return (vf)(((lane_bits)yes & mask) | ((lane_bits)no & ~mask)); }

VEC_INLINE vf v_set1(float x) { return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
VEC_INLINE vf v_load(const float *p) {
    vf r;
    memcpy(&r, p, sizeof r);
    return r;
}
VEC_INLINE vf v_load_once(const float *p) { return v_load(p); }
VEC_CALL vf v_load_first(const float *p, ptrdiff_t n) { V_LANES(r, i < n ? p[i] : 0.0f); }
VEC_INLINE void v_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
VEC_CALL void v_store_first(float *p, vf a, ptrdiff_t n) {
    for (int i = 0; i < VEC_LANES && i < n; i++) p[i] = a[i];
}
VEC_INLINE vf v_add(vf a, vf b) { return a + b; }
VEC_INLINE vf v_sub(vf a, vf b) { return a - b; }
VEC_INLINE vf v_mul(vf a, vf b) { return a * b; }
VEC_INLINE vf v_div(vf a, vf b) { return a / b; }
VEC_CALL vf v_fma(vf a, vf b, vf c) { V_LANES(r, fma_exact(a[i], b[i], c[i])); }
VEC_INLINE vf v_max(vf a, vf b) { return choose(a > b, a, b); }
VEC_INLINE vf v_min(vf a, vf b) { return choose(a < b, a, b); }
VEC_INLINE vf v_abs(vf a) { return (vf)((lane_bits)a & INT32_MAX); }
VEC_INLINE vf v_copysign(vf magnitude, vf sign) {
    return (vf)(((lane_bits)magnitude & INT32_MAX) | ((lane_bits)sign & INT32_MIN));
}
VEC_INLINE vf v_select_lt(vf a, vf b, vf yes, vf no) { return choose(a < b, yes, no); }
VEC_CALL vf v_keep_first(vf a, ptrdiff_t n, vf fill) { V_LANES(r, i < n ? a[i] : fill[i]); }
VEC_CALL unsigned v_mask_lt(vf a, vf b) {
    unsigned mask = 0;
    for (int i = 0; i < VEC_LANES; i++) mask |= (unsigned)(a[i] < b[i]) << i;
    return mask;
}
VEC_CALL vf v_select_mask(unsigned mask, vf yes, vf no) { V_LANES(r, mask >> i & 1U ? yes[i] : no[i]); }
VEC_INLINE float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* 2^n; infinity where n is out of range or NaN, which no integer can hold. */
VEC_INLINE float pow2(float n) {
    return float_of_bits((uint32_t)(n >= -127.0f && n <= 128.0f ? (int32_t)n + 127 : 255) << 23);
}
VEC_CALL vf v_pow2(vf n) { V_LANES(r, pow2(n[i])); }

#else
#error "define one of GPT2C_ISA_GENERIC, GPT2C_ISA_AVX2, GPT2C_ISA_AVX512 before including vec.h"
#endif

#ifndef GPT2C_ISA_AVX512
VEC_INLINE ptrdiff_t v_compress(float *p, unsigned mask, vf a) {
    float lane[VEC_LANES];
    ptrdiff_t count = 0;
    v_store(lane, a);
    for (int i = 0; i < VEC_LANES; i++) { /* no branch on the mask: it would be mispredicted */
        p[count] = lane[i];
        count += mask >> i & 1U;
    }
    return count;
}
#endif

#ifdef V_FOLD8
VEC_INLINE double v_sum_double(vf a) {
    const __m256d four = v_fold4_double(a);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
VEC_INLINE float v_sum(vf a) {
    const __m256 eight = V_FOLD8(a, _mm256_add_ps);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
VEC_INLINE float v_max_lane(vf a) {
    const __m256 eight = V_FOLD8(a, _mm256_max_ps);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#else
VEC_CALL double v_sum_double(vf a) {
    double sum[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++) sum[i] = (double)a[i];
    for (int width = VEC_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
}
VEC_CALL float v_sum(vf a) {
    float sum[VEC_LANES];
    v_store(sum, a);
    for (int width = VEC_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
}
VEC_CALL float v_max_lane(vf a) {
    float most[VEC_LANES];
    v_store(most, a);
    for (int width = VEC_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) most[i] = most[i] > most[i + width] ? most[i] : most[i + width];
    return most[0];
}
#endif

#define v_hide(pointer) __asm__("" : "+r"(pointer)) /* the compiler shall not compute it anew */

/* Memory that will be read next: for every line (64 bytes) read now, so many bytes of it are asked for. It may lie
 * beyond the array. */
typedef struct {
    uintptr_t from;
    ptrdiff_t share;
} stream;

VEC_INLINE void v_prefetch(uintptr_t from) {
#ifdef V_FOLD8
    _mm_prefetch((const char *)from, _MM_HINT_T0);
#else
    (void)from;
#endif
}

/* As `lines` lines are read: one at a time in loops that wait for memory, many at once in those that calculate. */
VEC_INLINE void stream_on(stream *ahead, ptrdiff_t lines) {
    for (ptrdiff_t i = 0; i < lines * ahead->share; i += 64) v_prefetch(ahead->from + (uintptr_t)i);
    ahead->from += (uintptr_t)(lines * ahead->share);
}

enum { STREAM_DISTANCE = 8192 }; /* bytes; of 1 to 16 KB the fastest */

/* For tile t of `tiles` that go over the `lines` lines of weights at `now`: a tile alone runs a little ahead of itself;
 * several ask each for their share of what follows at `next`. */
VEC_INLINE stream stream_ahead(uintptr_t now, uintptr_t next, ptrdiff_t lines, ptrdiff_t t, ptrdiff_t tiles) {
    const ptrdiff_t share = (64 + tiles - 1) / tiles;
    return tiles == 1 ? (stream){now + STREAM_DISTANCE, 64} : (stream){next + (uintptr_t)(t * lines * share), share};
}

/* 1.5 * 2^23: adding it leaves no fraction bits, ties going to even numbers, where |x| < 2^22. */
#define ROUNDING 12582912.0f
/* The nearest integer. */
VEC_INLINE vf v_round(vf x) {
    const vf magic = v_set1(ROUNDING);
    return v_sub(v_add(x, magic), magic);
}

#ifndef GPT2C_ISA_AVX512
VEC_INLINE vf v_scale(vf a, vf n) { /* in two steps, of which the first is exact: 2^n alone may not be a float */
    const vf half = v_round(v_mul(n, v_set1(0.5f)));
    return v_mul(v_mul(a, v_pow2(half)), v_pow2(v_sub(n, half)));
}
#endif

#endif
