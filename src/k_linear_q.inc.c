/* The sums of a panel of int8 or int4 weights: exact integers over a block of inputs, scaled and added in ascending
 * order of the blocks. A panel is computed half after half, 32 outputs at a time. */

enum {
    HALF_OUTPUTS = GPT2C_PANEL / 2,
    TILE_BYTES = GPT2C_GROUP * GPT2C_LANES,                        /* int8 weights of 64 inputs and 16 outputs */
    INT8_STEP = 2 * TILE_BYTES,                                    /* of 64 inputs and half a panel */
    INT4_STEP = 2 * HALF_OUTPUTS + GPT2C_GROUP * HALF_OUTPUTS / 2, /* the same, with factors before the weights */
    INT4_STEPS = GPT2C_INT4_BLOCK / GPT2C_GROUP,                   /* in a block with one scale */
    INT8_STEPS = GPT2C_INT8_BLOCK / GPT2C_GROUP,
    FEW_LINES = 3,
    PART_STEPS = 8 /* 16 KB of weights stay in a first-level cache while all rows go over them */
};

/* ---- a tile of integer sums ---- */

/* sums[i][16 v + lane] = (begins ? 0 : sums[…]) + the products of line i of the activations and the unsigned bytes at
 * `weights`, over `steps` steps of 64 inputs, for i < rows and v < cols. Line i begins at x + i * ld. rows and cols are
 * constants in every instance, so that the sums live in registers. */
VEC_INLINE void tile_bytes(const int rows, const int cols, int32_t *sums, const activation *x, ptrdiff_t ld,
                           const uint8_t *weights, ptrdiff_t steps, int begins, stream *ahead) {
    vi sum[QUAD_ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < cols; v++)
            sum[i][v] = begins ? v_int_set1(0) : v_int_load(sums + i * HALF_OUTPUTS + v * GPT2C_LANES);
    const activation *row[(QUAD_ROWS + 3) / 4]; /* twelve lines by three addresses and multiples of ld */
#pragma GCC unroll 3
    for (int i = 0; i < rows; i += 4) {
        row[i / 4] = x + i * ld;
        v_hide(row[i / 4]);
    }
    const int at_once = rows <= FEW_LINES ? 1 : cols; /* few lines wait for memory, which is read in order */
    uintptr_t next = ahead->from;
    const ptrdiff_t share = ahead->share;
    if (rows < QUAD_ROWS) ahead->from += (uintptr_t)(steps * GPT2C_LANES * cols * share);
    for (ptrdiff_t s = 0; s < steps; s++, weights += INT8_STEP) {
        if (rows == QUAD_ROWS) stream_on(ahead, cols * TILE_BYTES / 64);
        if (rows > FEW_LINES && share < 64) /* the lines of the next tile, if there is one: they are far apart */
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) v_prefetch((uintptr_t)(row[i / 4] + (i % 4 + rows) * ld));
#pragma GCC unroll 2
        for (int first = 0; first < cols; first += at_once)
#pragma GCC unroll 4
            for (int r = 0; r < GPT2C_LANES; r++, next += (uintptr_t)(at_once * share)) {
                vq wide[2];
#pragma GCC unroll 2
                for (int v = 0; v < at_once; v++) {
                    const uint8_t *from = weights + (first + v) * TILE_BYTES + 4 * r * GPT2C_LANES;
                    if (rows < QUAD_ROWS) v_prefetch(next + (uintptr_t)(v * share));
                    wide[v] = v_bytes(v_load_bytes(from));
                }
#pragma GCC unroll 12
                for (int i = 0; i < rows; i++) {
                    const va four = v_broadcast4(row[i / 4] + i % 4 * ld + 4 * r);
#pragma GCC unroll 2
                    for (int v = 0; v < at_once; v++) sum[i][first + v] = v_dot4(sum[i][first + v], wide[v], four);
                }
            }
#pragma GCC unroll 3
        for (int i = 0; i < rows; i += 4) row[i / 4] += STEP_OF_LINES;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < cols; v++) v_int_store(sums + i * HALF_OUTPUTS + v * GPT2C_LANES, sum[i][v]);
}

/* The same over int4 weights, each times its factor; starts (ld_starts apart) are those of the lines. */
VEC_INLINE void tile_nibbles(const int rows, const int cols, int32_t *sums, const activation *x, ptrdiff_t ld,
                             const int32_t *starts, ptrdiff_t ld_starts, const uint8_t *weights, const int first,
                             ptrdiff_t steps, const stream *ahead) {
    vi sum[NIBBLE_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < cols; v++) sum[i][v] = v_int_set1(0);
    const activation *row[(NIBBLE_ROWS + 3) / 4];
#pragma GCC unroll 3
    for (int i = 0; i < rows; i += 4) {
        row[i / 4] = x + i * ld;
        v_hide(row[i / 4]);
    }
    uintptr_t next = ahead->from;
    for (ptrdiff_t s = 0; s < steps; s++, weights += INT4_STEP, starts += 2) {
#pragma GCC unroll 2
        for (int v = 0; v < cols; v++)
            for (int half = 0; half < 2; half++) {
                const uint8_t *from = weights + 2 * HALF_OUTPUTS + (first + v) * TILE_BYTES / 2 + half * TILE_BYTES / 4;
                const vi factor =
                    v_load_int8((const int8_t *)weights + half * HALF_OUTPUTS + (first + v) * GPT2C_LANES);
                vi part[NIBBLE_ROWS];
#pragma GCC unroll 8
                for (int i = 0; i < rows; i++) part[i] = v_int_set1(starts[i * ld_starts + half]);
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++, from += 4 * GPT2C_LANES, next += (uintptr_t)ahead->share) {
                    const ptrdiff_t at = half * GPT2C_HALF_GROUP + 8 * r;
                    v_prefetch(next);
                    const vb bytes = v_load_bytes(from);
                    const vq low = v_low_nibbles(bytes), high = v_high_nibbles(bytes);
#pragma GCC unroll 8
                    for (int i = 0; i < rows; i++) {
                        const activation *from_row = row[i / 4] + i % 4 * ld + at;
                        part[i] = v_dot4(part[i], low, v_broadcast4(from_row));
                        part[i] = v_dot4(part[i], high, v_broadcast4(from_row + 4));
                    }
                }
#pragma GCC unroll 8
                for (int i = 0; i < rows; i++) sum[i][v] = v_int_add(sum[i][v], v_int_mul(part[i], factor));
            }
#pragma GCC unroll 3
        for (int i = 0; i < rows; i += 4) row[i / 4] += STEP_OF_LINES;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < cols; v++) v_int_store(sums + i * HALF_OUTPUTS + v * GPT2C_LANES, sum[i][v]);
}

/* ---- half a panel ---- */

/* The lines that are multiplied. */
typedef struct {
    const void *x;
    const line_shape *shape;
    ptrdiff_t first, n;
} line_range;

/* Between two lines of a block, in activations. */
static ptrdiff_t lines_apart(const line_shape *s) {
    return LINES > 1 ? GPT2C_GROUP : s->size / (ptrdiff_t)sizeof(activation);
}

static ptrdiff_t heads_apart(const line_shape *s) { return (LINES > 1 ? s->head : s->size) / 4; } /* in int32 */

/* Lines from `line` on that a tile of at most `most` takes: tiles of nearly equal height, none over the end of a
 * block. */
static ptrdiff_t tile_height(ptrdiff_t line, ptrdiff_t end, ptrdiff_t most) {
    const ptrdiff_t block = LINES > 1 ? (line / LINES + 1) * LINES : end;
    const ptrdiff_t left = (block < end ? block : end) - line, tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

#define FIRST_12(CASE)                                                                                                 \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

static void tile_bytes_any(ptrdiff_t rows, int32_t *sums, const activation *x, ptrdiff_t ld, const uint8_t *weights,
                           ptrdiff_t steps, int begins, stream *ahead) {
#define BYTES_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        if (n <= QUAD_ROWS)                                                                                            \
            for (int v = 0; v < 2; v += QUAD_COLS(n))                                                                  \
                tile_bytes(n <= QUAD_ROWS ? n : 1, QUAD_COLS(n), sums + v * GPT2C_LANES, x, ld,                        \
                           weights + v * TILE_BYTES, steps, begins, ahead);                                            \
        break;
    switch (rows) {
        FIRST_12(BYTES_CASE)
    default:
        break;
    }
#undef BYTES_CASE
}

static void tile_int4(ptrdiff_t rows, int32_t *sums, const activation *x, ptrdiff_t ld, const int32_t *starts,
                      ptrdiff_t ld_starts, const uint8_t *weights, ptrdiff_t steps, stream *ahead) {
#define NIBBLES_CASE(n)                                                                                                \
    case n:                                                                                                            \
        if (n <= NIBBLE_ROWS)                                                                                          \
            for (int v = 0; v < 2; v += NIBBLE_COLS(n))                                                                \
                tile_nibbles(n <= NIBBLE_ROWS ? n : 1, NIBBLE_COLS(n), sums + v * GPT2C_LANES, x, ld, starts,          \
                             ld_starts, weights, v, steps, ahead);                                                     \
        break;
    switch (rows) {
        FIRST_12(NIBBLES_CASE)
    default:
        break;
    }
#undef NIBBLES_CASE
}

/* sums[line][32] of a range over int8 weights of `steps` steps, from `step` of the lines on. */
static void sums_of_bytes(int32_t *sums, line_range lines, const uint8_t *weights, ptrdiff_t step, ptrdiff_t steps,
                          uintptr_t next) {
    const ptrdiff_t ld = lines_apart(lines.shape), end = lines.first + lines.n;
    const ptrdiff_t tiles = (lines.n + QUAD_ROWS - 1) / QUAD_ROWS;
    const ptrdiff_t parts = tiles > 1 ? (steps + PART_STEPS - 1) / PART_STEPS : 1;
    for (ptrdiff_t part = 0; part < parts; part++) {
        const ptrdiff_t from = steps * part / parts, to = steps * (part + 1) / parts;
        const uint8_t *here = weights + from * INT8_STEP;
        const uintptr_t after = part + 1 < parts ? (uintptr_t)(weights + to * INT8_STEP) : next;
        ptrdiff_t t = 0;
        for (ptrdiff_t line = lines.first, height; line < end; line += height, t++) {
            stream ahead = stream_ahead((uintptr_t)here, after, (to - from) * INT8_STEP / 64, t, tiles);
            const activation *x = integers_of_line(lines.x, lines.shape, line) + (step + from) * STEP_OF_LINES;
            height = tile_height(line, end, QUAD_ROWS);
            tile_bytes_any(height, sums + (line - lines.first) * HALF_OUTPUTS, x, ld, here, to - from, part == 0,
                           &ahead);
        }
    }
}

#if defined(GPT2C_ISA_AMX)
#include "k_linear_amx.inc.c"
#endif

static void sums_of_lines(int32_t *sums, line_range lines, const uint8_t *weights, ptrdiff_t step, ptrdiff_t steps,
                          uintptr_t next) {
#if defined(GPT2C_ISA_AMX)
    if (lines.n >= AMX_SMALL) {
        amx_sums_of_bytes(sums, lines, weights, step, steps, next);
        return;
    }
#endif
    sums_of_bytes(sums, lines, weights, step, steps, next);
}

/* int4 weights of `steps` steps as bytes, each times its factor, plus 128. */
static void unpack_nibbles(uint8_t *to, const uint8_t *from, ptrdiff_t steps) {
    for (ptrdiff_t s = 0; s < steps; s++, from += INT4_STEP)
        for (int v = 0; v < 2; v++)
            for (int half = 0; half < 2; half++) {
                const int8_t *factors = (const int8_t *)from + half * HALF_OUTPUTS + v * GPT2C_LANES;
                const uint8_t *nibbles = from + 2 * HALF_OUTPUTS + v * TILE_BYTES / 2 + half * TILE_BYTES / 4;
                const vi factor = v_load_int8(factors);
                for (int r = 0; r < 4; r++, nibbles += 4 * GPT2C_LANES, to += 8 * GPT2C_LANES) {
                    const vb bytes = v_load_bytes(nibbles);
                    v_prefetch((uintptr_t)nibbles + STREAM_DISTANCE);
                    v_store_bytes(to, v_scaled_nibbles(bytes, 0, factor));
                    v_store_bytes(to + 4 * GPT2C_LANES, v_scaled_nibbles(bytes, 1, factor));
                }
            }
}

/* total[row][32] (64 apart) = (first ? shift * offset : total) + float(sum) * (weight scale * x scale), the last step
 * one fma; block: whose start the sums lack, or -1. */
static void scale_sums(float *total, const int32_t *sums, line_range lines, const float *shift, const float *scales,
                       ptrdiff_t block, const int first) {
    const ptrdiff_t per_row = lines.shape->per_row;
    vf scale[2], shifts[2];
    for (int v = 0; v < 2; v++) {
        scale[v] = v_load(scales + v * GPT2C_LANES);
        shifts[v] = v_load(shift + v * GPT2C_LANES);
    }
    for (ptrdiff_t i = 0; i < lines.n; i += per_row, total += GPT2C_PANEL, sums += per_row * HALF_OUTPUTS) {
        const line_head *head = head_of_line(lines.x, lines.shape, lines.first + i);
        const vi start = v_int_set1(block < 0 ? 0 : ((const int32_t *)(const void *)(head + 1))[block]);
        const vf scale_x = v_set1(head->scale), offset = v_set1(head->offset);
        for (int v = 0; v < 2; v++) {
            vi sum = v_int_load(sums + v * GPT2C_LANES);
            if (per_row == 2) sum = v_int_add(v_int_times_64(sum), v_int_load(sums + HALF_OUTPUTS + v * GPT2C_LANES));
            const vf value = v_to_float(v_int_add(sum, start));
            float *to = total + v * GPT2C_LANES;
            v_store(to, v_fma(value, v_mul(scale[v], scale_x), first ? v_mul(shifts[v], offset) : v_load(to)));
        }
    }
}

/* total[rows][64] = the sums of one panel of int8 or int4 weights; sums: 2 * rows * HALF_OUTPUTS integers. */
static void sums_of_integers(float *total, const void *x, ptrdiff_t row0, const gpt2c_dense *dense,
                             const uint8_t *panel, ptrdiff_t rows, int32_t *sums) {
    const line_shape s = lines_of(dense);
    const line_range lines = {x, &s, row0 * s.per_row, rows * s.per_row};
    const int is_int4 = dense->dtype == GPT2C_INT4;
    const ptrdiff_t step_size = is_int4 ? INT4_STEP : INT8_STEP, most = is_int4 ? INT4_STEPS : INT8_STEPS;
    const float *shift = (const float *)(const void *)panel, *scales = shift + GPT2C_PANEL;
    const uint8_t *weights = panel + GPT2C_PANEL * sizeof(float) * (size_t)(1 + s.blocks);
    const int few = is_int4 && lines.n <= NIBBLE_ROWS && (LINES == 1 || lines.first % LINES + lines.n <= LINES);
    uint8_t bytes[INT4_STEPS * INT8_STEP] __attribute__((aligned(64)));
    for (int half = 0; half < 2; half++)
        for (ptrdiff_t b = 0; b < s.blocks; b++) {
            const ptrdiff_t step = b * most, left = s.steps - step, steps = left < most ? left : most;
            const uint8_t *next = weights + steps * step_size;
            if (few) {
                stream ahead = stream_ahead((uintptr_t)weights, (uintptr_t)next, 0, 0, 1);
                tile_int4(lines.n, sums, integers_of_line(x, &s, lines.first) + step * STEP_OF_LINES, lines_apart(&s),
                          starts_of_line(x, &s, lines.first) + s.blocks + 2 * step, heads_apart(&s), weights, steps,
                          &ahead);
            } else if (is_int4) {
                unpack_nibbles(bytes, weights, steps);
                sums_of_lines(sums, lines, bytes, step, steps, (uintptr_t)next);
            } else
                sums_of_lines(sums, lines, weights, step, steps, (uintptr_t)next);
            scale_sums(total + half * HALF_OUTPUTS, sums, lines, shift + half * HALF_OUTPUTS,
                       scales + b * GPT2C_PANEL + half * HALF_OUTPUTS, few ? -1 : b, b == 0);
            weights = next;
        }
}
