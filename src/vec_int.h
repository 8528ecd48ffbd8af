/* vec_int.h: the integer part of the SIMD vocabulary, for formats narrower than float32; included after vec.h.
 *
 *   vi  16 int32          vb  64 bytes as loaded          vq, va  what v_dot4 multiplies
 *
 * v_dot4(sum, w, a) adds to lane j the sum over i < 4 of the unsigned byte w[4 j + i] times the signed byte a[i], the
 * same four in every lane: vpdpbusd where the ISA has it, else the exact sum of two vpmaddwd. Nothing saturates.
 * GPT2C_ISA_VNNI and GPT2C_ISA_BF16 tell what the including file is compiled for beyond AVX2 or AVX-512.
 */
#ifndef GPT2C_VEC_INT_H
#define GPT2C_VEC_INT_H

#include "vec.h"

/* How four neighbouring inputs of an integer layer are kept, ready for v_broadcast4: as bytes, or as 16-bit integers,
 * for vpmaddwd in the order 0, 2, 1, 3. */
#if defined(GPT2C_ISA_VNNI)
typedef int8_t activation;
#else
typedef int16_t activation;
#endif

#if !defined(GPT2C_ISA_GENERIC)

#if defined(GPT2C_ISA_AVX512)
typedef __m512i int_register;
#define V_INT(name) _mm512_##name
#define V_AND _mm512_and_si512
#define V_OR _mm512_or_si512
#define V_DPBUSD "vpdpbusd"
#else
typedef __m256i int_register;
#define V_INT(name) _mm256_##name
#define V_AND _mm256_and_si256
#define V_OR _mm256_or_si256
#define V_DPBUSD "%{vex%} vpdpbusd"
#endif

#if defined(GPT2C_ISA_VNNI)
typedef int_register quads;
VEC_INLINE quads quads_unsigned(int_register bytes) { return bytes; }
VEC_INLINE int_register quads_dot(int_register sum, quads w, quads a) {
    /* In words, since gcc 12 copies and spills the accumulators of the intrinsic: half the speed. */
    __asm__(V_DPBUSD " %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
    return sum;
}
#else
typedef struct {
    int_register even, odd; /* of each four: bytes 0 and 2, bytes 1 and 3, as 16-bit integers */
} quads;
VEC_INLINE quads quads_unsigned(int_register bytes) {
    return (quads){V_AND(bytes, V_INT(set1_epi16)(0xFF)), V_INT(srli_epi16)(bytes, 8)};
}
VEC_INLINE int_register quads_dot(int_register sum, quads w, quads a) {
    const int_register even = V_INT(madd_epi16)(w.even, a.even), odd = V_INT(madd_epi16)(w.odd, a.odd);
    return V_INT(add_epi32)(sum, V_INT(add_epi32)(even, odd));
}
#endif

typedef quads va;

VEC_INLINE int_register broadcast_word(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return V_INT(set1_epi32)(word);
}
VEC_INLINE va v_broadcast4(const activation *p) {
#if defined(GPT2C_ISA_VNNI)
    return broadcast_word(p);
#else
    return (va){broadcast_word(p), broadcast_word(p + 2)};
#endif
}
/* Hides from the compiler that a value is the one it was, so that a benchmark's loop repeats the work. */
VEC_INLINE void v_forget(va *a) {
#if defined(GPT2C_ISA_VNNI)
    __asm__ volatile("" : "+v"(*a));
#else
    __asm__ volatile("" : "+v"(a->even), "+v"(a->odd));
#endif
}
VEC_INLINE int_register low_nibbles(int_register bytes) { return V_AND(bytes, V_INT(set1_epi8)(0x0F)); }
VEC_INLINE int_register high_nibbles(int_register bytes) { return low_nibbles(V_INT(srli_epi16)(bytes, 4)); }
/* (nibble - 8) * factor + 128 as bytes, the factor being that of all four bytes of a word. */
VEC_INLINE int_register scaled_nibbles(int_register bytes, const int high, int_register factor) {
    const int_register nibble = V_INT(set1_epi16)(0x0F);
    const int_register both = V_OR(V_INT(slli_epi32)(factor, 16), V_AND(factor, V_INT(set1_epi32)(0xFFFF)));
    const int_register start = V_INT(sub_epi16)(V_INT(set1_epi16)(128), V_INT(slli_epi16)(both, 3));
    const int_register even = V_AND(high ? V_INT(srli_epi16)(bytes, 4) : bytes, nibble);
    const int_register odd = high ? V_INT(srli_epi16)(bytes, 12) : V_AND(V_INT(srli_epi16)(bytes, 8), nibble);
    const int_register first = V_INT(add_epi16)(V_INT(mullo_epi16)(even, both), start);
    const int_register second = V_INT(add_epi16)(V_INT(mullo_epi16)(odd, both), start);
    return V_OR(first, V_INT(slli_epi16)(second, 8));
}
VEC_INLINE int_register high_halves(int_register words) { return V_AND(words, V_INT(set1_epi32)((int)0xFFFF0000U)); }
VEC_INLINE int_register low_halves(int_register words) { return V_INT(slli_epi32)(words, 16); }
/* Rounded to nearest even on the upper 16 bits; callers handle NaN. */
VEC_INLINE int_register bfloat16_bits(int_register bits) {
    const int_register odd = V_AND(V_INT(srli_epi32)(bits, 16), V_INT(set1_epi32)(1));
    return high_halves(V_INT(add_epi32)(bits, V_INT(add_epi32)(odd, V_INT(set1_epi32)(0x7FFF))));
}

#endif

#if defined(GPT2C_ISA_AVX512)

typedef __m512i vi;
typedef __m512i vb;
typedef quads vq;

VEC_INLINE vi v_int_set1(int32_t x) { return _mm512_set1_epi32(x); }
VEC_INLINE vi v_int_load(const int32_t *p) { return _mm512_loadu_si512(p); }
VEC_INLINE void v_int_store(int32_t *p, vi a) { _mm512_storeu_si512(p, a); }
VEC_INLINE vi v_int_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
VEC_INLINE vi v_int_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
VEC_INLINE vi v_int_times_64(vi a) { return _mm512_slli_epi32(a, 6); }
VEC_INLINE vi v_load_int8(const int8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
VEC_INLINE void v_store_bytes(uint8_t *p, vb bytes) { _mm512_storeu_si512(p, bytes); }
VEC_INLINE vb v_scaled_nibbles(vb bytes, const int high, vi factor) { return scaled_nibbles(bytes, high, factor); }
VEC_INLINE vf v_to_float(vi a) { return _mm512_cvtepi32_ps(a); }
VEC_INLINE vb v_load_bytes(const uint8_t *p) {
    __m512i bytes = _mm512_loadu_si512(p);
    v_keep(bytes);
    return bytes;
}
VEC_INLINE vq v_bytes(vb bytes) { return quads_unsigned(bytes); }
VEC_INLINE vq v_low_nibbles(vb bytes) { return quads_unsigned(low_nibbles(bytes)); }
VEC_INLINE vq v_high_nibbles(vb bytes) { return quads_unsigned(high_nibbles(bytes)); }
VEC_INLINE vi v_dot4(vi sum, vq w, va a) { return quads_dot(sum, w, a); }
VEC_INLINE vf v_high_halves(vb words) { return _mm512_castsi512_ps(high_halves(words)); }
VEC_INLINE vf v_low_halves(vb words) { return _mm512_castsi512_ps(low_halves(words)); }
VEC_INLINE vf v_to_bfloat16(vf x) {
    const __m512 rounded = _mm512_castsi512_ps(bfloat16_bits(_mm512_castps_si512(x)));
    /* x + x is quiet: a NaN still if its lower half is lost, as in pairs. */
    return _mm512_mask_add_ps(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x, x);
}
VEC_INLINE vf v_pair(vf first, vf second) {
    return _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_castps_si512(first), _mm512_srli_epi32(_mm512_castps_si512(second), 16)));
}
VEC_INLINE vf v_pack_pairs(vf a, vf b) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    return v_pair(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b));
}
VEC_INLINE vf v_load_float16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
VEC_INLINE void v_store_float16(uint16_t *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE void v_store_activations(activation *p, vf x) {
    const __m512i q = _mm512_cvtps_epi32(x);
#if defined(GPT2C_ISA_VNNI)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(q));
#else
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_shuffle_epi32(q, _MM_PERM_DBCA)));
#endif
}

#elif defined(GPT2C_ISA_AVX2)

typedef struct {
    __m256i lo, hi;
} vi;
typedef vi vb;
typedef struct {
    quads lo, hi;
} vq;

VEC_INLINE vi v_int_set1(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
VEC_INLINE vi v_int_load(const int32_t *p) {
    return (vi){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
VEC_INLINE void v_int_store(int32_t *p, vi a) {
    _mm256_storeu_si256((__m256i *)p, a.lo);
    _mm256_storeu_si256((__m256i *)(p + 8), a.hi);
}
VEC_INLINE vi v_int_add(vi a, vi b) { return (vi){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
VEC_INLINE vi v_int_mul(vi a, vi b) { return (vi){_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
VEC_INLINE vi v_int_times_64(vi a) { return (vi){_mm256_slli_epi32(a.lo, 6), _mm256_slli_epi32(a.hi, 6)}; }
VEC_INLINE vi v_load_int8(const int8_t *p) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return (vi){_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
VEC_INLINE void v_store_bytes(uint8_t *p, vb b) {
    _mm256_storeu_si256((__m256i *)p, b.lo);
    _mm256_storeu_si256((__m256i *)(p + 32), b.hi);
}
VEC_INLINE vb v_scaled_nibbles(vb b, const int high, vi factor) {
    return (vb){scaled_nibbles(b.lo, high, factor.lo), scaled_nibbles(b.hi, high, factor.hi)};
}
VEC_INLINE vf v_to_float(vi a) { return (vf){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
VEC_INLINE vb v_load_bytes(const uint8_t *p) {
    vb bytes = {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
    v_keep(bytes.lo);
    v_keep(bytes.hi);
    return bytes;
}
VEC_INLINE vq v_bytes(vb b) { return (vq){quads_unsigned(b.lo), quads_unsigned(b.hi)}; }
VEC_INLINE vq v_low_nibbles(vb b) { return (vq){quads_unsigned(low_nibbles(b.lo)), quads_unsigned(low_nibbles(b.hi))}; }
VEC_INLINE vq v_high_nibbles(vb b) {
    return (vq){quads_unsigned(high_nibbles(b.lo)), quads_unsigned(high_nibbles(b.hi))};
}
VEC_INLINE vi v_dot4(vi sum, vq w, va a) { return (vi){quads_dot(sum.lo, w.lo, a), quads_dot(sum.hi, w.hi, a)}; }
VEC_INLINE vf v_high_halves(vb words) {
    return (vf){_mm256_castsi256_ps(high_halves(words.lo)), _mm256_castsi256_ps(high_halves(words.hi))};
}
VEC_INLINE vf v_low_halves(vb words) {
    return (vf){_mm256_castsi256_ps(low_halves(words.lo)), _mm256_castsi256_ps(low_halves(words.hi))};
}
VEC_INLINE __m256 to_bfloat16_half(__m256 x) {
    const __m256 rounded = _mm256_castsi256_ps(bfloat16_bits(_mm256_castps_si256(x)));
    return _mm256_blendv_ps(rounded, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
VEC_INLINE vf v_to_bfloat16(vf x) { return (vf){to_bfloat16_half(x.lo), to_bfloat16_half(x.hi)}; }
VEC_INLINE __m256 pair_of(__m256 first, __m256 second) {
    return _mm256_or_ps(first, _mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(second), 16)));
}
VEC_INLINE vf v_pair(vf first, vf second) { return (vf){pair_of(first.lo, second.lo), pair_of(first.hi, second.hi)}; }
VEC_INLINE __m256 pack_pairs_of(vf x) { /* within the halves of a register, whose middle quarters then change places */
    const __m256 even = _mm256_shuffle_ps(x.lo, x.hi, 0x88), odd = _mm256_shuffle_ps(x.lo, x.hi, 0xDD);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pair_of(even, odd)), 0xD8));
}
VEC_INLINE vf v_pack_pairs(vf a, vf b) { return (vf){pack_pairs_of(a), pack_pairs_of(b)}; }
VEC_INLINE vf v_load_float16(const uint16_t *p) {
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
VEC_INLINE void v_store_float16(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE void v_store_activations(activation *p, vf x) {
    __m256i lo = _mm256_cvtps_epi32(x.lo), hi = _mm256_cvtps_epi32(x.hi);
#if !defined(GPT2C_ISA_VNNI)
    lo = _mm256_shuffle_epi32(lo, _MM_SHUFFLE(3, 1, 2, 0));
    hi = _mm256_shuffle_epi32(hi, _MM_SHUFFLE(3, 1, 2, 0));
#endif
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), _MM_SHUFFLE(3, 1, 2, 0));
#if defined(GPT2C_ISA_VNNI)
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#else
    _mm256_storeu_si256((__m256i *)p, words);
#endif
}

#else

typedef lane_bits vi;
typedef uint8_t vb __attribute__((vector_size(4 * VEC_LANES)));
typedef vb vq;
typedef struct {
    activation four[4];
} va;

VEC_INLINE va v_broadcast4(const activation *p) {
    va r;
    memcpy(r.four, p, sizeof r.four);
    return r;
}
VEC_INLINE void v_forget(va *a) { __asm__ volatile("" : "+m"(*a)); }
VEC_INLINE vi v_int_set1(int32_t x) { return x + (vi){0}; }
VEC_INLINE vi v_int_load(const int32_t *p) {
    vi r;
    memcpy(&r, p, sizeof r);
    return r;
}
VEC_INLINE void v_int_store(int32_t *p, vi a) { memcpy(p, &a, sizeof a); }
/* In unsigned numbers, which wrap around as registers do. */
typedef uint32_t unsigned_lanes __attribute__((vector_size(4 * VEC_LANES)));
VEC_INLINE vi v_int_add(vi a, vi b) { return (vi)((unsigned_lanes)a + (unsigned_lanes)b); }
VEC_INLINE vi v_int_mul(vi a, vi b) { return (vi)((unsigned_lanes)a * (unsigned_lanes)b); }
VEC_INLINE vi v_int_times_64(vi a) { return (vi)((unsigned_lanes)a << 6); }
VEC_CALL vi v_load_int8(const int8_t *p) {
    vi r;
    for (int i = 0; i < VEC_LANES; i++) r[i] = p[i];
    return r;
}
VEC_INLINE void v_store_bytes(uint8_t *p, vb bytes) { memcpy(p, &bytes, sizeof bytes); }
VEC_CALL vb v_scaled_nibbles(vb bytes, int high, vi factor) {
    vb r;
    for (int i = 0; i < 4 * VEC_LANES; i++)
        r[i] = (uint8_t)(((high ? bytes[i] >> 4 : bytes[i] & 0x0F) - 8) * factor[i / 4] + 128);
    return r;
}
VEC_INLINE vf v_to_float(vi a) { return __builtin_convertvector(a, vf); }
VEC_INLINE vb v_load_bytes(const uint8_t *p) {
    vb r;
    memcpy(&r, p, sizeof r);
    return r;
}
VEC_INLINE vq v_bytes(vb bytes) { return bytes; }
VEC_INLINE vq v_low_nibbles(vb bytes) { return bytes & 0x0F; }
VEC_INLINE vq v_high_nibbles(vb bytes) { return bytes >> 4; }
VEC_INLINE vi v_dot4(vi sum, vq w, va a) {
    const vi words = (vi)w;
    for (int j = 0; j < 4; j++) sum = v_int_add(sum, (words >> 8 * j & 0xFF) * a.four[j]);
    return sum;
}
VEC_INLINE vf v_high_halves(vb words) { return (vf)((lane_bits)words & (int32_t)0xFFFF0000U); }
VEC_INLINE vf v_low_halves(vb words) { return (vf)((lane_bits)words << 16); }
VEC_INLINE uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
VEC_INLINE uint32_t bfloat16_bits(uint32_t bits) { return (bits + 0x7FFFU + (bits >> 16 & 1U)) & 0xFFFF0000U; }
VEC_CALL vf v_to_bfloat16(vf x) { V_LANES(r, isnan(x[i]) ? x[i] : float_of_bits(bfloat16_bits(bits_of_float(x[i])))); }
VEC_INLINE float float_of_float16(uint16_t half) {
    const uint32_t magnitude = half & 0x7FFFU, sign = (uint32_t)(half & 0x8000U) << 16;
    const float x =
        magnitude >= 0x7C00U
            ? float_of_bits(0x7F800000U | (magnitude & 0x3FFU) << 13 | (magnitude > 0x7C00U ? 0x400000U : 0U))
            : float_of_bits(magnitude << 13) * 0x1p112f; /* rebiased; exact */
    return float_of_bits(bits_of_float(x) | sign);
}
VEC_INLINE uint16_t float16_of_float(float x) {
    const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000U, magnitude = bits & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return (uint16_t)(sign | 0x7E00U | (magnitude >> 13 & 0x3FFU));
    if (magnitude >= 0x477FF000U) return (uint16_t)(sign | 0x7C00U); /* 65520 and beyond: infinity */
    if (magnitude < 0x38800000U)                                     /* below 2^-14: subnormal, its last bit is 2^-24 */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f)));
    return (uint16_t)(sign | (magnitude - 0x38000000U + 0xFFFU + (magnitude >> 13 & 1U)) >> 13);
}
VEC_CALL vf v_pair(vf first, vf second) {
    V_LANES(r, float_of_bits(bits_of_float(first[i]) | bits_of_float(second[i]) >> 16));
}
VEC_CALL vf v_pack_pairs(vf a, vf b) {
    vf first, second;
    for (int i = 0; i < VEC_LANES; i++) {
        const vf x = i < VEC_LANES / 2 ? a : b;
        first[i] = x[2 * i % VEC_LANES];
        second[i] = x[2 * i % VEC_LANES + 1];
    }
    return v_pair(first, second);
}
VEC_CALL vf v_load_float16(const uint16_t *p) { V_LANES(r, float_of_float16(p[i])); }
VEC_CALL void v_store_float16(uint16_t *p, vf x) {
    for (int i = 0; i < VEC_LANES; i++) p[i] = float16_of_float(x[i]);
}
VEC_CALL void v_store_activations(activation *p, vf x) {
    for (int i = 0; i < VEC_LANES; i++) p[i] = (activation)x[i];
}

#endif

#if !defined(GPT2C_ISA_BF16)
#define v_dot2 v_fma /* never used: without the instruction bfloat16 is widened to float32 */
#else
/* sum + the products of both halves of each word, the upper one first, each rounded; subnormals count as zero. */
VEC_INLINE vf v_dot2(vf a, vf b, vf sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}
#endif

#endif
