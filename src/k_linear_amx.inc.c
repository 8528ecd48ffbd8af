/* The sums of a panel in the tile registers of AMX: up to 16 rows by 64 outputs, 64 bytes of inputs at a time. */

enum {
    AMX_ROWS = 16,                /* of a tile at most */
    AMX_BYTES = 64,               /* of inputs in a row of a tile at most */
    AMX_LINE = 4 * GPT2C_PANEL,   /* bytes of a panel that four bytes of inputs are multiplied by */
    AMX_SMALL = 9,                /* fewer rows of integers are left to v_dot4, which gives the same sums */
    AMX_PAIRS = GPT2C_K_BLOCK * 2 /* bytes of bfloat16 inputs multiplied at a time by many rows: 32 KB of weights */
};

/* Gives the tiles their shapes, and zeros: 0 to 3 are sums of `rows` rows and 16 outputs each, 4 is `bytes` of inputs
 * of these rows, 5 to 7 are weights. */
static void amx_shape(ptrdiff_t rows, ptrdiff_t bytes) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = (uint16_t)(i == 4 ? bytes : 64);
        shape.rows[i] = (uint8_t)(i <= 4 ? rows : bytes / 4);
    }
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* gcc 12 thinks that ldtilecfg reads 8 bytes */
    _tile_loadconfig(&shape);
}

/* Adds to tiles 0 to 3 the products of inputs and weights. */
#define AMX_MULTIPLY(instruction, x, ld_x, weights)                                                                    \
    do {                                                                                                               \
        _tile_loadd(4, x, ld_x);                                                                                       \
        _tile_loadd(5, weights, AMX_LINE);                                                                             \
        instruction(0, 4, 5);                                                                                          \
        _tile_loadd(6, (weights) + 64, AMX_LINE);                                                                      \
        instruction(1, 4, 6);                                                                                          \
        _tile_loadd(7, (weights) + 128, AMX_LINE);                                                                     \
        instruction(2, 4, 7);                                                                                          \
        _tile_loadd(5, (weights) + 192, AMX_LINE);                                                                     \
        instruction(3, 4, 5);                                                                                          \
    } while (0)

#define AMX_STORE(sums)                                                                                                \
    do {                                                                                                               \
        _tile_stored(0, sums, AMX_LINE);                                                                               \
        _tile_stored(1, (sums) + 16, AMX_LINE);                                                                        \
        _tile_stored(2, (sums) + 32, AMX_LINE);                                                                        \
        _tile_stored(3, (sums) + 48, AMX_LINE);                                                                        \
    } while (0)

#define AMX_ZERO()                                                                                                     \
    do {                                                                                                               \
        _tile_zero(0);                                                                                                 \
        _tile_zero(1);                                                                                                 \
        _tile_zero(2);                                                                                                 \
        _tile_zero(3);                                                                                                 \
    } while (0)

/* ---- int8 and int4 ---- */

/* What is multiplied for one scale: a group of int8 weights, or half of one of int4 weights as bytes. */
typedef struct {
    const uint8_t *weights;
    const uint16_t *scales;
    ptrdiff_t x, q; /* from a row's first byte to its integer_group, and to the integers */
    int start;      /* which of integer_group.start */
} amx_step;

enum { AMX_STEPS = 4 }; /* loaded at a time */

/* The steps from number `first` on; their weights are found in `bytes` if they are int4. */
static ptrdiff_t amx_plan(amx_step *steps, gpt2c_dtype dtype, const uint8_t *panel, const uint8_t *bytes,
                          ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t n = last - first < AMX_STEPS ? last - first : AMX_STEPS, group = (ptrdiff_t)sizeof(integer_group);
    for (ptrdiff_t i = 0; i < n; i++)
        if (dtype == GPT2C_INT8) {
            const uint8_t *from = panel + (first + i) * INT8_BYTES;
            steps[i] = (amx_step){from + GPT2C_PANEL * sizeof(uint16_t), (const uint16_t *)(const void *)from,
                                  (first + i) * group, (first + i) * group, 0};
        } else {
            const ptrdiff_t half = (first + i) % 2, at = (first + i) / 2 * group;
            steps[i] = (amx_step){bytes + i * GPT2C_HALF_GROUP * GPT2C_PANEL,
                                  (const uint16_t *)(const void *)(panel + (first + i) * INT4_BYTES), at,
                                  at + half * GPT2C_HALF_GROUP, 1 + (int)half};
        }
    return n;
}

/* n halves of groups of int4 weights as bytes [n][8][64][4]. */
static void amx_unpack(uint8_t *to, const uint8_t *from, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++, from += INT4_BYTES)
        for (int k = 0; k < 4; k++, to += 2 * AMX_LINE)
            for (int c = 0; c < AMX_LINE; c += 64) {
                const vb bytes = v_load_bytes(from + GPT2C_PANEL * sizeof(uint16_t) + k * AMX_LINE + c);
                _mm512_storeu_si512(to + c, low_nibbles(bytes));
                _mm512_storeu_si512(to + AMX_LINE + c, high_nibbles(bytes));
            }
    __asm__ volatile("" : : : "memory"); /* loads of tiles do not tell gcc what they read */
}

static void amx_multiply(int32_t *products, const amx_step *step, const char *x, ptrdiff_t ld_x) {
    AMX_ZERO();
    AMX_MULTIPLY(_tile_dpbsud, x + step->q, ld_x, step->weights);
    AMX_STORE(products);
}

/* total = (begins ? 0 : total) + float(start + product) * (weight scale * x scale). */
static void amx_scale(float *total, const int32_t *products, const amx_step *step, const char *x, ptrdiff_t ld_x,
                      ptrdiff_t rows, int begins) {
    vf scale[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) scale[v] = v_load_bfloat16(step->scales + v * GPT2C_LANES);
    x += step->x;
    for (ptrdiff_t i = 0; i < rows; i++, total += GPT2C_PANEL, products += GPT2C_PANEL, x += ld_x) {
        const integer_group *group = (const integer_group *)(const void *)x;
        const vi start = v_int_set1(group->start[step->start]);
        const vf scale_x = v_set1(group->scale);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            float *to = total + v * GPT2C_LANES;
            const vi sum = _mm512_add_epi32(start, _mm512_load_si512(products + v * GPT2C_LANES));
            v_store(to, v_fma(v_to_float(sum), v_mul(scale[v], scale_x), begins ? v_set1(0.0f) : v_load(to)));
        }
    }
}

/* total[rows][64] = the sums of one panel of int8 or int4 weights. The products of one step are made while those of the
 * step before are scaled. */
static void amx_sums_of_integers(float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel, gpt2c_dtype dtype,
                                 ptrdiff_t n_in, ptrdiff_t rows) {
    int32_t products[2][AMX_ROWS * GPT2C_PANEL] __attribute__((aligned(64)));
    uint8_t bytes[AMX_STEPS * GPT2C_HALF_GROUP * GPT2C_PANEL] __attribute__((aligned(64)));
    const ptrdiff_t tiles = (rows + AMX_ROWS - 1) / AMX_ROWS, per_group = dtype == GPT2C_INT8 ? 1 : 2;
    const ptrdiff_t size = dtype == GPT2C_INT8 ? INT8_BYTES : INT4_BYTES;
    const ptrdiff_t last = (n_in + GPT2C_GROUP - 1) / GPT2C_GROUP * per_group;
    ptrdiff_t shaped = 0;
    for (ptrdiff_t first = 0; first < last; first += AMX_STEPS) {
        amx_step steps[AMX_STEPS];
        const ptrdiff_t n = amx_plan(steps, dtype, panel, bytes, first, last);
        stream ahead =
            stream_ahead((uintptr_t)(panel + first * size), (uintptr_t)(panel + (first + n) * size), 0, 0, tiles);
        if (dtype == GPT2C_INT4) amx_unpack(bytes, panel + first * size, n);
        for (ptrdiff_t t = 0; t < tiles; t++) {
            const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
            const char *from = x + row * ld_x;
            if (height != shaped) amx_shape(shaped = height, GPT2C_GROUP / per_group);
            amx_multiply(products[0], &steps[0], from, ld_x);
            for (ptrdiff_t i = 0; i < n; i++) {
                stream_on(&ahead, size / 64);
                if (i + 1 < n) amx_multiply(products[(i + 1) % 2], &steps[i + 1], from, ld_x);
                amx_scale(total + row * GPT2C_PANEL, products[i % 2], &steps[i], from, ld_x, height, first + i == 0);
            }
        }
    }
    _tile_release();
}

/* ---- bfloat16 ---- */

/* One or two rows with the bits that tiles would give, faster, since lines are read in order: TDPBF16PS is defined as
 * fma with subnormals treated as zero (Intel, "Architecture Instruction Set Extensions Programming Reference"). */
VEC_INLINE void amx_pairs_as_fma(float *total, const int rows, const char *x, ptrdiff_t ld_x, const uint8_t *panel,
                                 ptrdiff_t words) {
    vf sum[2][4], even[2][4], odd[2][4];
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) sum[i][v] = v_set1(0.0f);
    for (ptrdiff_t begin = 0; begin < words; begin += AMX_BYTES / 4) {
        const ptrdiff_t end = words - begin < AMX_BYTES / 4 ? words : begin + AMX_BYTES / 4;
#pragma GCC unroll 2
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) even[i][v] = odd[i][v] = v_set1(0.0f);
        for (ptrdiff_t k = begin; k < end; k++, panel += AMX_LINE) {
            vf first[2], second[2];
#pragma GCC unroll 2
            for (int i = 0; i < rows; i++) {
                const vi pair = broadcast_word(x + i * ld_x + 4 * k);
                first[i] = v_high_halves(pair);
                second[i] = v_low_halves(pair);
            }
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                const vb pairs = v_load_bytes(panel + 64 * v);
                v_prefetch((uintptr_t)panel + 64 * (uintptr_t)v + STREAM_DISTANCE);
#pragma GCC unroll 2
                for (int i = 0; i < rows; i++) {
                    even[i][v] = v_fma(first[i], v_high_halves(pairs), even[i][v]);
                    odd[i][v] = v_fma(second[i], v_low_halves(pairs), odd[i][v]);
                }
            }
        }
#pragma GCC unroll 2
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) sum[i][v] = v_add(sum[i][v], v_add(even[i][v], odd[i][v]));
    }
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) v_store(total + i * GPT2C_PANEL + v * GPT2C_LANES, sum[i][v]);
}

static void amx_sums_of_few_pairs(float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel, ptrdiff_t n_in,
                                  ptrdiff_t rows) {
    enum { SUBNORMALS_ARE_ZERO = 0x8040 }; /* in and out */
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | SUBNORMALS_ARE_ZERO);
    __asm__ volatile("" : : : "memory"); /* what is computed from memory stays between the two */
    if (rows == 1)
        amx_pairs_as_fma(total, 1, x, ld_x, panel, (n_in + 1) / 2);
    else
        amx_pairs_as_fma(total, 2, x, ld_x, panel, (n_in + 1) / 2);
    __asm__ volatile("" : : : "memory");
    _mm_setcsr(before);
}

/* total[rows][64] = the sums of one panel of bfloat16 weights. */
static void amx_sums_of_pairs(float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel, ptrdiff_t n_in,
                              ptrdiff_t rows) {
    const ptrdiff_t tiles = (rows + AMX_ROWS - 1) / AMX_ROWS, size = (n_in + 1) / 2 * 4; /* bytes of a row */
    ptrdiff_t shaped = 0;
    for (ptrdiff_t k = 0, end; k < size; k = end) {
        end = size - k >= AMX_PAIRS  ? k + AMX_PAIRS
              : size - k > AMX_BYTES ? k + (size - k) / AMX_BYTES * AMX_BYTES
                                     : size;
        const ptrdiff_t width = end - k < AMX_BYTES ? end - k : AMX_BYTES, steps = (end - k) / width;
        const uint8_t *part = panel + k * GPT2C_PANEL;
        stream ahead = stream_ahead((uintptr_t)part, (uintptr_t)(panel + end * GPT2C_PANEL), 0, 0, tiles);
        for (ptrdiff_t t = 0; t < tiles; t++) {
            const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
            float *sums = total + row * GPT2C_PANEL;
            const char *from = x + row * ld_x + k;
            if (height * 128 + width != shaped) {
                amx_shape(height, width);
                shaped = height * 128 + width;
            } else if (k == 0)
                AMX_ZERO();
            if (k > 0) {
                _tile_loadd(0, sums, AMX_LINE);
                _tile_loadd(1, sums + 16, AMX_LINE);
                _tile_loadd(2, sums + 32, AMX_LINE);
                _tile_loadd(3, sums + 48, AMX_LINE);
            }
            for (ptrdiff_t i = 0; i < steps; i++) {
                const uint8_t *weights = part + i * AMX_BYTES / 4 * AMX_LINE;
                AMX_MULTIPLY(_tile_dpbf16ps, from + i * AMX_BYTES, ld_x, weights);
                stream_on(&ahead, width);
            }
            AMX_STORE(sums);
        }
    }
    _tile_release();
}
