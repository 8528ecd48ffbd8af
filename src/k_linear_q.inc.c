/* The sums of a panel of int8 or int4 weights: exact integers per group of inputs, scaled and added in ascending order
 * of the groups. */

enum {
    INT8_BYTES = GPT2C_PANEL * ((int)sizeof(uint16_t) + GPT2C_GROUP),         /* scales and weights of 64 inputs */
    INT4_BYTES = GPT2C_PANEL * ((int)sizeof(uint16_t) + GPT2C_HALF_GROUP / 2) /* of 32 inputs */
};

/* Of `rows` rows and `cols` vectors of columns from vector `strip` of the panel on, over one group of inputs with one
 * scale (for int4 one half of the row's group): total = (begins ? 0 : total) + float(sum) * (weight scale * x scale),
 * the last step one fma. The integer sum starts from what the weights' offset of 128 or 8 makes of the inputs. */
VEC_INLINE void tile_group(const gpt2c_dtype dtype, const int rows, const int cols, float *total, const char *x,
                           ptrdiff_t ld_x, const uint8_t *weights, const int strip, const int half, const int begins,
                           stream *ahead) {
    const int per_load = dtype == GPT2C_INT8 ? 4 : 8;
    const int first = half * GPT2C_HALF_GROUP, last = dtype == GPT2C_INT8 ? GPT2C_GROUP : first + GPT2C_HALF_GROUP;
    const uint16_t *scales = (const uint16_t *)(const void *)weights + strip * GPT2C_LANES;
    const uint8_t *from = weights + GPT2C_PANEL * sizeof(uint16_t) + strip * 4 * GPT2C_LANES;
    const integer_group *group[QUAD_ROWS];
    vi sum[QUAD_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        group[i] = (const integer_group *)(const void *)(x + i * ld_x);
        const vi start = v_int_set1(group[i]->start[dtype == GPT2C_INT8 ? 0 : 1 + half]);
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) sum[i][v] = start;
    }
    uintptr_t next = ahead->from;
    const ptrdiff_t share = ahead->share;
    if (rows == GPT2C_TILE_ROWS)
        stream_on(ahead, (last - first) / per_load * cols);
    else
        ahead->from += (uintptr_t)((last - first) / per_load * cols * share);
    for (int k = first; k < last; k += per_load, from += 4 * GPT2C_PANEL, next += (uintptr_t)(cols * share)) {
        vb bytes[4];
        vq wide[4];
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) {
            bytes[v] = v_load_bytes(from + 4 * v * GPT2C_LANES);
            if (rows < GPT2C_TILE_ROWS) v_prefetch(next + (uintptr_t)(v * share));
            wide[v] = dtype == GPT2C_INT8 ? v_bytes(bytes[v]) : v_low_nibbles(bytes[v]);
        }
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const va four = v_broadcast4(group[i]->q + k);
#pragma GCC unroll 4
            for (int v = 0; v < cols; v++) sum[i][v] = v_dot4(sum[i][v], wide[v], four);
        }
        if (dtype == GPT2C_INT8) continue;
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) wide[v] = v_high_nibbles(bytes[v]);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const va four = v_broadcast4(group[i]->q + k + 4);
#pragma GCC unroll 4
            for (int v = 0; v < cols; v++) sum[i][v] = v_dot4(sum[i][v], wide[v], four);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < cols; v++) {
        const vf scale = v_load_bfloat16(scales + v * GPT2C_LANES);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            float *to = total + i * GPT2C_PANEL + (strip + v) * GPT2C_LANES;
            const vf factor = v_mul(scale, v_set1(group[i]->scale));
            v_store(to, v_fma(v_to_float(sum[i][v]), factor, begins ? v_set1(0.0f) : v_load(to)));
        }
    }
}

/* One group of 64 inputs of all columns of the panel. */
VEC_INLINE void tile_quads(const gpt2c_dtype dtype, const int rows, float *total, const char *x, ptrdiff_t ld_x,
                           const uint8_t *weights, const int begins, stream *ahead) {
    for (int strip = 0; strip < GPT2C_PANEL / GPT2C_LANES; strip += QUAD_COLS(rows)) {
        tile_group(dtype, rows, QUAD_COLS(rows), total, x, ld_x, weights, strip, 0, begins, ahead);
        if (dtype == GPT2C_INT4)
            tile_group(dtype, rows, QUAD_COLS(rows), total, x, ld_x, weights + INT4_BYTES, strip, 1, 0, ahead);
    }
}

/* Groups [group0, group1) for any number of rows up to QUAD_ROWS. */
VEC_INLINE void tile_groups(const gpt2c_dtype dtype, ptrdiff_t rows, float *total, const char *x, ptrdiff_t ld_x,
                            const uint8_t *panel, ptrdiff_t group0, ptrdiff_t group1, stream *ahead) {
    const ptrdiff_t size = dtype == GPT2C_INT8 ? INT8_BYTES : 2 * INT4_BYTES;
#define QUAD_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        for (ptrdiff_t g = group0; g < group1; g++)                                                                    \
            tile_quads(dtype, n, total, x + g * (ptrdiff_t)sizeof(integer_group), ld_x, panel + g * size, g == 0,      \
                       ahead);                                                                                         \
        break
    switch (rows) {
        QUAD_CASE(1);
        QUAD_CASE(2);
        QUAD_CASE(3);
        QUAD_CASE(4);
#if QUAD_ROWS == 6
        QUAD_CASE(5);
        QUAD_CASE(6);
#endif
    default:
        break;
    }
#undef QUAD_CASE
}

static void tile_int8(ptrdiff_t rows, float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel,
                      ptrdiff_t group0, ptrdiff_t group1, stream *ahead) {
    tile_groups(GPT2C_INT8, rows, total, x, ld_x, panel, group0, group1, ahead);
}

static void tile_int4(ptrdiff_t rows, float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel,
                      ptrdiff_t group0, ptrdiff_t group1, stream *ahead) {
    tile_groups(GPT2C_INT4, rows, total, x, ld_x, panel, group0, group1, ahead);
}

enum { PART_GROUPS = 4 }; /* 17 KB of int8 weights stay in a first-level cache while all rows go over them */

/* total[rows][64] = the sums of one panel of int8 or int4 weights. */
static void sums_of_integers(float *total, const char *x, ptrdiff_t ld_x, const uint8_t *panel, gpt2c_dtype dtype,
                             ptrdiff_t n_in, ptrdiff_t rows) {
    const ptrdiff_t tiles = (rows + QUAD_ROWS - 1) / QUAD_ROWS, groups = (n_in + GPT2C_GROUP - 1) / GPT2C_GROUP;
    const ptrdiff_t size = dtype == GPT2C_INT8 ? INT8_BYTES : 2 * INT4_BYTES, lines = dtype == GPT2C_INT8 ? 64 : 32;
    for (ptrdiff_t g = 0, end; g < groups; g = end) {
        end = tiles > 1 && g + PART_GROUPS < groups ? g + PART_GROUPS : groups;
        for (ptrdiff_t t = 0; t < tiles; t++) {
            const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
            stream ahead = stream_ahead((uintptr_t)(panel + g * size), (uintptr_t)(panel + end * size),
                                        lines * (end - g), t, tiles);
            (dtype == GPT2C_INT8 ? tile_int8 : tile_int4)(height, total + row * GPT2C_PANEL, x + row * ld_x, ld_x,
                                                          panel, g, end, &ahead);
        }
    }
}
