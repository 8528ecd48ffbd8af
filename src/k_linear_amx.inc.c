/* The sums of a panel in the tile registers of AMX: up to 16 rows by 64 outputs, 64 bytes of inputs at a time. */

enum {
    AMX_ROWS = 16,                /* of a tile at most */
    AMX_BYTES = 64,               /* of inputs in a row of a tile at most */
    AMX_LINE = 4 * GPT2C_PANEL,   /* bytes of a panel that four bytes of inputs are multiplied by */
    AMX_SMALL = 3,                /* fewer lines of integers are left to v_dot4, which gives the same sums */
    AMX_PAIRS = GPT2C_K_BLOCK * 2 /* bytes of bfloat16 inputs multiplied at a time by many rows: 32 KB of weights */
};

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} amx_config;

static void amx_configure(const amx_config *shape) {
    __asm__ volatile("" : : "r"(shape) : "memory"); /* gcc 12 thinks that ldtilecfg reads 8 bytes */
    _tile_loadconfig(shape);
}

/* Gives the tiles their shapes, and zeros: 0 to 3 are sums of `rows` rows and 16 outputs each, 4 is `bytes` of inputs
 * of these rows, 5 to 7 are weights. */
static void amx_shape(ptrdiff_t rows, ptrdiff_t bytes) {
    amx_config shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = (uint16_t)(i == 4 ? bytes : 64);
        shape.rows[i] = (uint8_t)(i <= 4 ? rows : bytes / 4);
    }
    amx_configure(&shape);
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

/* The tiles of a block of lines and half a panel: 0 to 3 are sums of `rows` lines in two tiles and 32 outputs in two, 4
 * and 5 lines, 6 and 7 weights. */
static void amx_shape_block(ptrdiff_t rows) {
    amx_config shape = {.palette = 1};
    const ptrdiff_t first = rows < AMX_ROWS ? rows : AMX_ROWS, second = rows - first;
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = (uint8_t)(i >= 6 ? AMX_ROWS : i == 2 || i == 3 || i == 5 ? (second ? second : 1) : first);
    }
    amx_configure(&shape);
}

/* sums[line][32] of a range over int8 weights of `steps` steps, from `step` of the lines on. */
static void amx_sums_of_bytes(int32_t *sums, line_range lines, const uint8_t *weights, ptrdiff_t step, ptrdiff_t steps,
                              uintptr_t next) {
    enum { LINE = HALF_OUTPUTS * 4, STEP = STEP_OF_LINES };
    const ptrdiff_t end = lines.first + lines.n, blocks = (lines.n + LINES - 1) / LINES;
    ptrdiff_t shaped = 0, t = 0;
    for (ptrdiff_t line = lines.first, height; line < end; line += height, t++) {
        height = (line / LINES + 1) * LINES - line;
        if (height > end - line) height = end - line;
        const int two = height > AMX_ROWS;
        const activation *x = integers_of_line(lines.x, lines.shape, line) + step * STEP;
        int32_t *to = sums + (line - lines.first) * HALF_OUTPUTS;
        stream ahead = stream_ahead((uintptr_t)weights, next, steps * INT8_STEP / 64, t, blocks);
        if (height != shaped) amx_shape_block(shaped = height);
        AMX_ZERO();
        for (ptrdiff_t s = 0; s < steps; s++, x += STEP) {
            const uint8_t *w = weights + s * INT8_STEP;
            stream_on(&ahead, INT8_STEP / 64);
            _tile_loadd(4, x, GPT2C_GROUP);
            _tile_loadd(6, w, 64);
            _tile_dpbsud(0, 4, 6);
            _tile_loadd(7, w + TILE_BYTES, 64);
            _tile_dpbsud(1, 4, 7);
            if (!two) continue;
            _tile_loadd(5, x + AMX_ROWS * GPT2C_GROUP, GPT2C_GROUP);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
        _tile_stored(0, to, LINE);
        _tile_stored(1, to + GPT2C_LANES, LINE);
        if (!two) continue;
        _tile_stored(2, to + AMX_ROWS * HALF_OUTPUTS, LINE);
        _tile_stored(3, to + AMX_ROWS * HALF_OUTPUTS + GPT2C_LANES, LINE);
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
