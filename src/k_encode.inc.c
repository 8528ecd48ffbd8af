/* Rows of float32 in the form that a dense layer of a narrower format multiplies, independent of other rows.
 *
 * An integer layer multiplies lines of integers: a row is one line, or, where integers are bytes and it has 13 bits,
 * two lines (q = 64 * first + second). LINES lines are adjacent: [LINES] heads, then [steps of 64 inputs][LINES][64]
 * integers. After a line_head come starts, int32: what the offsets of the weights add to sums, negated. Of a row's
 * first line there is one for each block of inputs with one weight scale, -128 sum(q) of the row. With int4 weights one
 * for each 32 inputs of the line follows, -8 sum(q) of the line. */

typedef struct {
    float scale, offset; /* x = scale * q + offset */
} line_head;

#if defined(GPT2C_ISA_AMX)
enum { LINES = 32 }; /* two tiles */
#else
enum { LINES = 1 };
#endif

#if defined(GPT2C_ISA_BF16) || defined(GPT2C_ISA_AMX)
#define BFLOAT16_PAIRS 1
#else
#define BFLOAT16_PAIRS 0
#endif
enum {
    PAIRS_STEP = 32,                          /* bfloat16 inputs in a step */
    PAIRS_TILE = PAIRS_STEP * GPT2C_LANES * 2 /* bytes of the weights of a step and 16 outputs */
};

/* The lines of a matrix of encoded rows. */
typedef struct {
    ptrdiff_t per_row, steps, blocks;
    ptrdiff_t head, size; /* bytes of a line: of its head with starts, and of all of it */
} line_shape;

static line_shape lines_of(const gpt2c_dense *dense) {
    if (dense->dtype == GPT2C_BFLOAT16) {
        const ptrdiff_t steps = (dense->n_in + PAIRS_STEP - 1) / PAIRS_STEP;
        return (line_shape){.per_row = 1, .steps = steps, .size = steps * GPT2C_GROUP};
    }
    line_shape s = {.per_row = dense->inputs == GPT2C_WIDE && sizeof(activation) == 1 ? 2 : 1};
    s.steps = (dense->n_in + GPT2C_GROUP - 1) / GPT2C_GROUP;
    const ptrdiff_t block = gpt2c_scale_block(dense->dtype);
    s.blocks = (dense->n_in + block - 1) / block;
    const ptrdiff_t starts = s.blocks + (dense->dtype == GPT2C_INT4 ? 2 * s.steps : 0);
    s.head = ((ptrdiff_t)sizeof(line_head) + 4 * starts + 15) / 16 * 16;
    s.size = s.head + s.steps * GPT2C_GROUP * (ptrdiff_t)sizeof(activation);
    return s;
}

enum { STEP_OF_LINES = LINES * GPT2C_GROUP }; /* activations from one step of a line to the next */

VEC_INLINE line_head *head_of_line(const void *x, const line_shape *s, ptrdiff_t line) {
    return (line_head *)(void *)((char *)(uintptr_t)x + line / LINES * LINES * s->size + line % LINES * s->head);
}
VEC_INLINE int32_t *starts_of_line(const void *x, const line_shape *s, ptrdiff_t line) {
    return (int32_t *)(void *)(head_of_line(x, s, line) + 1);
}
VEC_INLINE activation *integers_of_line(const void *x, const line_shape *s, ptrdiff_t line) {
    char *block = (char *)(uintptr_t)x + line / LINES * LINES * s->size;
    return (activation *)(void *)(block + LINES * s->head) + line % LINES * GPT2C_GROUP;
}

#if !BFLOAT16_PAIRS
/* Floats from one row to the next, if rows are floats. */
static ptrdiff_t row_floats(const gpt2c_dense *dense) {
    return (dense->n_in + GPT2C_GROUP - 1) / GPT2C_GROUP * GPT2C_GROUP;
}
#endif

VEC_INLINE void load_group(vf part[4], const float *x, ptrdiff_t n) {
    for (int v = 0; v < 4; v++) {
        const ptrdiff_t left = n - v * GPT2C_LANES;
        part[v] = left >= GPT2C_LANES ? v_load(x + v * GPT2C_LANES)
                  : left > 0          ? v_load_first(x + v * GPT2C_LANES, left)
                                      : v_set1(0.0f);
    }
}

/* q = round(x * inverse) - zero, x = scale * q + offset. */
typedef struct {
    float inverse, zero;
    line_head head;
} row_rounding;

/* A row whose greatest magnitude, or for GPT2C_SHIFTED the difference of its extremes, is below 2^-100 has a scale of
 * zero: the inverse would overflow. */
static row_rounding rounding_of(const float *x, ptrdiff_t n, gpt2c_inputs inputs) {
    const vf nothing = v_set1(0.0f);
    vf most = nothing, least = nothing, poison = nothing;
    for (ptrdiff_t k = 0; k < n; k += GPT2C_LANES) {
        const vf part = n - k >= GPT2C_LANES ? v_load(x + k) : v_load_first(x + k, n - k);
        most = v_max(part, most);
        least = v_min(part, least);
        poison = v_fma(part, nothing, poison); /* NaN where x is NaN or infinite */
    }
    const float high = v_max_lane(most), low = -v_max_lane(v_sub(nothing, least));
    row_rounding r = {0};
    const float limit = inputs == GPT2C_SHIFTED ? 254.0f : inputs == GPT2C_WIDE ? 4095.0f : 127.0f;
    const float range = inputs == GPT2C_SHIFTED ? high - low : high > -low ? high : -low;
    const float failed = v_sum(poison) + range * 0.0f; /* NaN if the range is not finite either */
    if (range >= 0x1p-100f && failed == 0.0f) {
        r.head.scale = range / limit;
        r.inverse = limit / range;
    }
    if (inputs == GPT2C_SHIFTED) {
        const double magic = 0x1.8p52; /* in double the product is exact, as in an fma */
        r.zero = (float)(((double)low * (double)r.inverse + magic) - magic) + 128.0f;
        r.head.offset = r.head.scale * r.zero;
    }
    r.head.scale += failed;
    return r;
}

static void encode_integers(const gpt2c_dense *dense, void *out, ptrdiff_t row, const float *x) {
    const line_shape s = lines_of(dense);
    const ptrdiff_t n = dense->n_in, line = row * s.per_row, block = gpt2c_scale_block(dense->dtype);
    const row_rounding r = rounding_of(x, n, dense->inputs);
    const int clean = r.head.scale == r.head.scale;
    const vf inverse = v_set1(r.inverse), magic = v_set1(ROUNDING), base = v_set1(ROUNDING + r.zero);
    for (ptrdiff_t i = 0; i < s.per_row; i++) *head_of_line(out, &s, line + i) = r.head;
    int32_t *starts[2] = {starts_of_line(out, &s, line), NULL};
    activation *to[2] = {integers_of_line(out, &s, line), NULL};
    if (s.per_row == 2) {
        starts[1] = starts_of_line(out, &s, line + 1);
        to[1] = integers_of_line(out, &s, line + 1);
    }
    vf sum = v_set1(0.0f); /* at most 256 * 4095 a lane: exact */
    for (ptrdiff_t k = 0; k < n; k += GPT2C_GROUP) {
        vf q[2][4];
        load_group(q[0], x + k, n - k);
        for (int v = 0; v < 4; v++) {
            const ptrdiff_t left = n - k - v * GPT2C_LANES;
            q[0][v] = v_sub(v_fma(q[0][v], inverse, magic), base);
            if (left < GPT2C_LANES || !clean)
                q[0][v] = v_keep_first(q[0][v], clean && left > 0 ? left : 0, v_set1(0.0f));
            sum = v_add(sum, q[0][v]);
            if (s.per_row == 2) {
                const vf first = v_sub(v_fma(q[0][v], v_set1(0x1p-6f), magic), magic);
                q[1][v] = v_fma(first, v_set1(-64.0f), q[0][v]);
                q[0][v] = first;
            }
        }
        for (ptrdiff_t i = 0; i < s.per_row; i++) {
            for (int v = 0; v < 4; v++) v_store_activations(to[i] + v * GPT2C_LANES, q[i][v]);
            to[i] += STEP_OF_LINES;
            if (dense->dtype == GPT2C_INT4)
                for (int half = 0; half < 2; half++)
                    starts[i][s.blocks + k / GPT2C_HALF_GROUP + half] =
                        -8 * (int32_t)v_sum(v_add(q[i][2 * half], q[i][2 * half + 1]));
        }
        if ((k + GPT2C_GROUP) % block == 0 || k + GPT2C_GROUP >= n) {
            float lane[GPT2C_LANES];
            uint32_t total = 0; /* modulo 2^32, as all sums are */
            v_store(lane, sum);
            for (int i = 0; i < GPT2C_LANES; i++) total += (uint32_t)(int32_t)lane[i];
            starts[0][k / block] = (int32_t)(total * (uint32_t)-128);
            sum = v_set1(0.0f);
        }
    }
}

/* The first n <= 64 of x, rounded to bfloat16; zeros up to 64. */
VEC_INLINE void load_rounded(vf part[4], const float *x, ptrdiff_t n) {
    load_group(part, x, n);
    for (int v = 0; v < 4; v++) part[v] = v_to_bfloat16(part[v]);
}

/* The same as 32 words of two, the first of each in the upper half, as vdpbf16ps adds. */
VEC_INLINE void pack_pairs(void *out, const float *x, ptrdiff_t n) {
    vf part[4];
    load_rounded(part, x, n);
    v_store((float *)out, v_pack_pairs(part[0], part[1]));
    v_store((float *)out + GPT2C_LANES, v_pack_pairs(part[2], part[3]));
}

/* Rows of `n` <= 64 bfloat16 inputs from `first` on: pairs in lines; or if the ISA has no instruction for pairs,
 * floats with 16 bits that are zero. */
static void encode_bfloat16(const gpt2c_dense *dense, void *out, ptrdiff_t row, const float *x, ptrdiff_t first,
                            ptrdiff_t n) {
#if BFLOAT16_PAIRS
    const line_shape s = lines_of(dense);
    uint32_t pair[GPT2C_GROUP / 2];
    char *to = (char *)integers_of_line(out, &s, row) + first / PAIRS_STEP * STEP_OF_LINES;
    pack_pairs(pair, x, n);
    memcpy(to, pair, sizeof pair / 2);
    if (first / PAIRS_STEP + 1 < s.steps) memcpy(to + STEP_OF_LINES, pair + PAIRS_STEP / 2, sizeof pair / 2);
#else
    float *to = (float *)out + row * row_floats(dense) + first;
    vf part[4];
    load_rounded(part, x, n);
    for (int v = 0; v < 4; v++) v_store(to + v * GPT2C_LANES, part[v]);
#endif
}

static void encode(const gpt2c_dense *dense, void *out, ptrdiff_t row0, const float *x, ptrdiff_t ld_x, ptrdiff_t rows,
                   ptrdiff_t first, ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++, x += ld_x)
        if (dense->dtype != GPT2C_BFLOAT16)
            encode_integers(dense, out, row0 + r, x);
        else
            for (ptrdiff_t k = 0; k < n; k += GPT2C_GROUP)
                encode_bfloat16(dense, out, row0 + r, x + k, first + k, n - k);
}

VEC_INLINE void store_first_float16(uint16_t *out, vf x, ptrdiff_t n) {
    uint16_t lanes[GPT2C_LANES];
    v_store_float16(lanes, x);
    memcpy(out, lanes, (size_t)n * sizeof *out);
}

/* float32 to float16 and back, n elements; ties to even, beyond 65520 infinite. */
static void narrow(uint16_t *out, const float *x, ptrdiff_t n) {
    const ptrdiff_t whole = n - n % GPT2C_LANES;
    for (ptrdiff_t i = 0; i < whole; i += GPT2C_LANES) v_store_float16(out + i, v_load(x + i));
    if (whole < n) store_first_float16(out + whole, v_load_first(x + whole, n - whole), n - whole);
}

/* n is a multiple of 16. */
static void widen_halves(float *out, const uint16_t *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        v_prefetch((uintptr_t)(x + i) + STREAM_DISTANCE);
        v_store(out + i, v_load_float16(x + i));
    }
}
