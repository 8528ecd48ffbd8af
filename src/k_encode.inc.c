/* Rows of float32 into what a dense layer of a narrower format multiplies: rounded once per row and group of 64,
 * whatever else is computed with it. */

/* 64 inputs of an integer layer: x = scale * q, zeros beyond the row. */
typedef struct {
    activation q[GPT2C_GROUP];
    int32_t start[3]; /* what the offsets of the weights add, negated: int8, -128 sum(q); int4, -8 sum(q) by half */
    float scale;
} integer_group;

VEC_INLINE void load_group(vf part[4], const float *x, ptrdiff_t n) {
    for (int v = 0; v < 4; v++) {
        const ptrdiff_t left = n - v * GPT2C_LANES;
        part[v] = left >= GPT2C_LANES ? v_load(x + v * GPT2C_LANES)
                  : left > 0          ? v_load_first(x + v * GPT2C_LANES, left)
                                      : v_set1(0.0f);
    }
}

/* A group whose greatest magnitude is below 2^-100 counts as zero (127 / most would overflow). */
static void encode_int8(integer_group *to, const float *x, ptrdiff_t n) {
    vf part[4], greatest = v_set1(0.0f), poison = v_set1(0.0f);
    load_group(part, x, n);
    for (int v = 0; v < 4; v++) {
        greatest = v_max(v_abs(part[v]), greatest);
        poison = v_fma(part[v], v_set1(0.0f), poison); /* NaN where x is NaN or infinite */
    }
    const float most = v_max_lane(greatest), nothing = v_sum(poison);
    const int counts = most >= 0x1p-100f;
    to->scale = (counts ? most / 127.0f : 0.0f) + nothing;
    const vf inverse = v_set1(counts ? 127.0f / most : 0.0f);
    for (int v = 0; v < 4; v++) {
        part[v] = v_round(v_mul(part[v], inverse));
        v_store_activations(to->q + v * GPT2C_LANES, part[v]);
    }
    for (int half = 0; half < 2; half++) /* exact: sums of 32 small integers */
        to->start[1 + half] = nothing == 0.0f ? -8 * (int32_t)v_sum(v_add(part[2 * half], part[2 * half + 1])) : 0;
    to->start[0] = 16 * (to->start[1] + to->start[2]);
}

#if defined(GPT2C_ISA_BF16) || defined(GPT2C_ISA_AMX)
enum { BFLOAT16_PAIRS = 1 }; /* in words, the first of each in the upper half, as vdpbf16ps adds */
#else
enum { BFLOAT16_PAIRS = 0 }; /* floats with 16 bits that are zero */
#endif
enum { BFLOAT16_GROUP = GPT2C_GROUP * (BFLOAT16_PAIRS ? 2 : 4) }; /* bytes */

static void encode_bfloat16(void *to, const float *x, ptrdiff_t n) {
    vf part[4];
    load_group(part, x, n);
    for (int v = 0; v < 4; v++) part[v] = v_to_bfloat16(part[v]);
#if defined(GPT2C_ISA_BF16) || defined(GPT2C_ISA_AMX)
    uint32_t bits[GPT2C_GROUP], pair[GPT2C_GROUP / 2];
    memcpy(bits, part, sizeof bits);
    for (int i = 0; i < GPT2C_GROUP / 2; i++) pair[i] = bits[2 * i] | bits[2 * i + 1] >> 16;
    memcpy(to, pair, sizeof pair);
#else
    for (int v = 0; v < 4; v++) v_store((float *)to + v * GPT2C_LANES, part[v]);
#endif
}

static void encode(gpt2c_dtype dtype, void *out, ptrdiff_t ld_out, const float *x, ptrdiff_t ld_x, ptrdiff_t rows,
                   ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        char *to = (char *)out + r * ld_out;
        const float *from = x + r * ld_x;
        for (ptrdiff_t k = 0; k < n; k += GPT2C_GROUP)
            if (dtype == GPT2C_BFLOAT16) {
                encode_bfloat16(to, from + k, n - k);
                to += BFLOAT16_GROUP;
            } else {
                encode_int8((integer_group *)(void *)to, from + k, n - k);
                to += sizeof(integer_group);
            }
    }
}

/* float32 to float16 and back, n elements; ties to even, beyond 65520 infinite. */
static void narrow(uint16_t *out, const float *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        uint16_t lanes[GPT2C_LANES];
        v_store_float16(lanes, n - i >= GPT2C_LANES ? v_load(x + i) : v_load_first(x + i, n - i));
        memcpy(out + i, lanes, (size_t)(n - i < GPT2C_LANES ? n - i : GPT2C_LANES) * sizeof *out);
    }
}

/* n is a multiple of 16. */
static void widen_halves(float *out, const uint16_t *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        v_prefetch((uintptr_t)(x + i) + STREAM_DISTANCE);
        v_store(out + i, v_load_float16(x + i));
    }
}
