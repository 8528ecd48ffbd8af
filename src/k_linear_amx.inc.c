/* The sums of half a panel in the tile registers of AMX: 32 lines by 32 outputs, 64 bytes of inputs at a time. */

enum {
    AMX_ROWS = 16, /* of a tile */
    AMX_SMALL = 3  /* fewer lines of integers are left to v_dot4, which gives the same sums */
};

/* Gives the tiles their shapes, and zeros: 0 to 3 are sums of `rows` <= 32 lines in two tiles and 32 outputs in two, 4
 * and 5 lines, 6 and 7 weights. */
static void amx_shape(ptrdiff_t rows) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    const ptrdiff_t first = rows < AMX_ROWS ? rows : AMX_ROWS, second = rows > AMX_ROWS ? rows - AMX_ROWS : 1;
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = (uint8_t)(i >= 6 ? AMX_ROWS : i == 2 || i == 3 || i == 5 ? second : first);
    }
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* gcc 12 thinks that ldtilecfg reads 8 bytes */
    _tile_loadconfig(&shape);
}

VEC_INLINE void amx_zero(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The sums, 32 words a row, into rows `ld` bytes apart; two: of more than 16 rows. */
VEC_INLINE void amx_store(void *sums, ptrdiff_t ld, int two) {
    char *to = sums, *second = to + AMX_ROWS * ld;
    _tile_stored(0, to, ld);
    _tile_stored(1, to + 64, ld);
    if (!two) return;
    _tile_stored(2, second, ld);
    _tile_stored(3, second + 64, ld);
}

#define AMX_MULTIPLY(sums, lines, weights)                                                                             \
    do {                                                                                                               \
        if (pairs)                                                                                                     \
            _tile_dpbf16ps(sums, lines, weights);                                                                      \
        else                                                                                                           \
            _tile_dpbsud(sums, lines, weights);                                                                        \
    } while (0)

/* sums[line][32] (ld bytes apart) of a range of lines over `steps` steps of weights, from `step` of the lines on:
 * floats of pairs of bfloat16, or integers of bytes. */
VEC_INLINE void amx_sums(const int pairs, void *sums, ptrdiff_t ld, line_range lines, const uint8_t *weights,
                         ptrdiff_t step, ptrdiff_t steps, uintptr_t next) {
    enum { TILE = AMX_ROWS * 64, LINE_STEP = STEP_OF_LINES };
    const ptrdiff_t end = lines.first + lines.n, blocks = (lines.n + LINES - 1) / LINES;
    ptrdiff_t shaped = 0, t = 0;
    char *to = sums;
    /* gcc 12 does not know what tile loads read: all of it must be in memory. */
    __asm__ volatile("" : : "r"(weights), "r"(lines.x) : "memory");
    for (ptrdiff_t line = lines.first, height; line < end; line += height, to += height * ld, t++) {
        height = (line / LINES + 1) * LINES - line;
        if (height > end - line) height = end - line;
        const int two = height > AMX_ROWS;
        const activation *x = integers_of_line(lines.x, lines.shape, line) + step * LINE_STEP;
        const uint8_t *w = weights;
        stream ahead = stream_ahead((uintptr_t)w, next, steps * 2 * TILE / 64, t, blocks);
        if (height != shaped)
            amx_shape(shaped = height);
        else
            amx_zero();
        for (ptrdiff_t s = 0; s < steps; s++, x += LINE_STEP, w += 2 * TILE) {
            stream_on(&ahead, 2 * TILE / 64);
            _tile_loadd(4, x, 64);
            _tile_loadd(6, w, 64);
            AMX_MULTIPLY(0, 4, 6);
            _tile_loadd(7, w + TILE, 64);
            AMX_MULTIPLY(1, 4, 7);
            if (!two) continue;
            _tile_loadd(5, x + TILE, 64);
            AMX_MULTIPLY(2, 5, 6);
            AMX_MULTIPLY(3, 5, 7);
        }
        amx_store(to, ld, two);
    }
    _tile_release();
}

static void amx_sums_of_bytes(int32_t *sums, line_range lines, const uint8_t *weights, ptrdiff_t step, ptrdiff_t steps,
                              uintptr_t next) {
    amx_sums(0, sums, HALF_OUTPUTS * (ptrdiff_t)sizeof *sums, lines, weights, step, steps, next);
}

/* total[rows][64] of rows from row0 on, over bfloat16 weights. */
static void sums_of_pairs(float *total, const void *x, ptrdiff_t row0, const gpt2c_dense *dense, const uint8_t *panel,
                          ptrdiff_t rows) {
    const line_shape s = lines_of(dense);
    const line_range lines = {x, &s, row0, rows};
    const ptrdiff_t half = s.steps * 2 * PAIRS_TILE;
    for (int h = 0; h < 2; h++, panel += half)
        amx_sums(1, total + h * HALF_OUTPUTS, GPT2C_PANEL * (ptrdiff_t)sizeof *total, lines, panel, 0, s.steps,
                 (uintptr_t)(panel + half));
}
