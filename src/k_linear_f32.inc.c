/* The one register tile that float layers and attention are made of, and the sums of a panel of float weights. */

/* What the words of a tile's b are: floats; bfloat16 weights of two neighbouring inputs, with words of a that are pairs
 * themselves (for vdpbf16ps); the same, with an a of floats. */
enum { FLOATS, PAIRS, HALVES };

enum { TILE_STEPS = 16 }; /* unrolled at a time */

/* c[i][16 v + lane] = add[…] + (from[…] + sum over k of a[i][k] * b[k][v][lane]) for i < rows, v < cols, the sum being
 * one fma chain that starts from `from` (NULL: zero); without `add` nothing is added. Row i of a starts at a + i lda;
 * rows of c, from and add at i ldc; b[k][v] is the 16 floats at b + k ldb + v step. from and add may be c. rows and
 * cols are constants in every instance, so that the accumulators live in registers. What is
 * read next is asked for from `ahead`. */
VEC_INLINE void tile(const int kind, const int rows, const int cols, float *c, const float *from, const float *add,
                     ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step,
                     ptrdiff_t k, stream *ahead) {
    vf sum[GPT2C_TILE_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) sum[i][v] = from ? v_load(from + i * ldc + v * GPT2C_LANES) : v_set1(0.0f);
    const ptrdiff_t a_step = kind == HALVES ? 2 : 1;
    const float *a3 = a + 3 * lda; /* six rows by two addresses and multiples of lda */
    v_hide(a3);
    uintptr_t next = ahead->from;
    const ptrdiff_t share = ahead->share;
    ahead->from += (uintptr_t)(rows < GPT2C_TILE_ROWS ? k * cols * share : 0);
    for (ptrdiff_t begin = 0; begin < k; begin += TILE_STEPS) {
        const ptrdiff_t end = k - begin < TILE_STEPS ? k - begin : TILE_STEPS;
        if (rows == GPT2C_TILE_ROWS) stream_on(ahead, end * cols);
        if (rows > 3) /* the next tile's a, whose rows are short and far apart */
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) v_prefetch((uintptr_t)a + 4 * (uintptr_t)((i + rows) * lda));
        for (ptrdiff_t j = 0; j < end; j++, b += ldb, a += a_step, a3 += a_step, next += (uintptr_t)(cols * share)) {
            vf wide[4], second[4];
#pragma GCC unroll 4
            for (int v = 0; v < cols; v++) {
                const float *words = b + v * step;
                if (rows < GPT2C_TILE_ROWS) v_prefetch(next + (uintptr_t)(v * share));
                if (kind == HALVES) {
                    const vb halves = v_load_bytes((const uint8_t *)(const void *)words);
                    wide[v] = v_high_halves(halves);
                    second[v] = v_low_halves(halves);
                } else
                    wide[v] = rows > 1 ? v_load_once(words) : v_load(words);
            }
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                const vf one = v_set1(i < 3 ? a[i * lda] : a3[(i - 3) * lda]);
#pragma GCC unroll 4
                for (int v = 0; v < cols; v++)
                    sum[i][v] = kind == PAIRS ? v_dot2(one, wide[v], sum[i][v]) : v_fma(one, wide[v], sum[i][v]);
            }
            if (kind != HALVES) continue;
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                const vf one = v_set1(i < 3 ? a[i * lda + 1] : a3[(i - 3) * lda + 1]);
#pragma GCC unroll 4
                for (int v = 0; v < cols; v++) sum[i][v] = v_fma(one, second[v], sum[i][v]);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < cols; v++) {
            const ptrdiff_t at = i * ldc + v * GPT2C_LANES;
            v_store(c + at, add ? v_add(v_load(add + at), sum[i][v]) : sum[i][v]);
        }
}

/* The strips of a tile, as wide as the registers allow; the columns that are left over one vector at a time. */
VEC_INLINE void tile_strips(const int kind, const int rows, float *c, const float *from, const float *add,
                            ptrdiff_t ldc, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step,
                            ptrdiff_t k, ptrdiff_t strips, stream *ahead) {
    stream none = {0, 0};
    for (ptrdiff_t v = 0; v < strips;) {
        const ptrdiff_t at = v * GPT2C_LANES;
        const float *from_here = from ? from + at : NULL, *add_here = add ? add + at : NULL;
        if (v + TILE_COLS(rows) <= strips) {
            tile(kind, rows, TILE_COLS(rows), c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k,
                 ahead);
            v += TILE_COLS(rows);
        } else {
            tile(kind, rows, 1, c + at, from_here, add_here, ldc, a, lda, b + v * step, ldb, step, k, &none);
            v++;
        }
    }
}

/* The same for any number of rows up to GPT2C_TILE_ROWS, and `strips` vectors of columns. */
VEC_INLINE void tile_rows(const int kind, ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc,
                          const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k,
                          ptrdiff_t strips, stream *ahead) {
#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        tile_strips(kind, n, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);                               \
        break
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
    default:
        break;
    }
#undef TILE_CASE
}

static void tile_any(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                     ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                     stream *ahead) {
    tile_rows(FLOATS, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}

/* Over words that are two bfloat16 weights each. */
static void tile_bfloat16(ptrdiff_t rows, float *c, const float *from, const float *add, ptrdiff_t ldc, const float *a,
                          ptrdiff_t lda, const float *b, ptrdiff_t ldb, ptrdiff_t step, ptrdiff_t k, ptrdiff_t strips,
                          stream *ahead) {
    tile_rows(BFLOAT16_PAIRS ? PAIRS : HALVES, rows, c, from, add, ldc, a, lda, b, ldb, step, k, strips, ahead);
}

/* A block of a panel (64 KB) is split into parts that stay in a first-level cache while all rows go over them; a chain
 * that is interrupted between two parts waits in `chain`. */

/* `n` words, each two bfloat16 weights of neighbouring inputs, to floats [2][64] per 64 words. */
static void widen(float *to, const uint8_t *from, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += GPT2C_PANEL, to += 2 * GPT2C_PANEL)
        for (ptrdiff_t v = 0; v < GPT2C_PANEL; v += GPT2C_LANES) {
            const vb words = v_load_bytes(from + 4 * (i + v));
            v_store(to + v, v_high_halves(words));
            v_store(to + GPT2C_PANEL + v, v_low_halves(words));
        }
}

/* Rows of a single tile go over all strips of a part before the next part, so that memory is read in order. */
enum { SINGLE_PART = TILE_COLS(GPT2C_TILE_ROWS) == GPT2C_PANEL / GPT2C_LANES ? GPT2C_K_BLOCK : 32 };

/* total[rows][64] = the sums of one panel of float32 or bfloat16 weights. scratch: GPT2C_LINEAR_SCRATCH less total.
 * Weights that many rows multiply are widened once for all of them, unless there is an instruction for pairs. */
static void sums_of_floats(float *total, const char *x, ptrdiff_t ld_x, const char *panel, gpt2c_dtype dtype,
                           ptrdiff_t n_in, ptrdiff_t rows, float *scratch) {
    const ptrdiff_t tiles = (rows + GPT2C_TILE_ROWS - 1) / GPT2C_TILE_ROWS, ld = ld_x / (ptrdiff_t)sizeof(float);
    const ptrdiff_t per_word = dtype == GPT2C_BFLOAT16 ? 2 : 1, words = (n_in + per_word - 1) / per_word;
    const ptrdiff_t block = GPT2C_K_BLOCK / per_word, part = (tiles > 1 ? GPT2C_K_PART : SINGLE_PART) / per_word;
    const int widened = dtype == GPT2C_BFLOAT16 && !BFLOAT16_PAIRS && tiles > 3;
    const int pairs = dtype == GPT2C_BFLOAT16 && !widened, per_float = pairs && BFLOAT16_PAIRS ? 1 : (int)per_word;
    float *chain = scratch, *wide = scratch + rows * GPT2C_PANEL;
    for (ptrdiff_t k = 0, end; k < words; k = end) {
        end = k + part < words ? k + part : words;
        const int begins = k % block == 0, ends = end % block == 0 || end == words;
        const float *a = (const float *)(const void *)x + k * per_float;
        const float *b = (const float *)(const void *)panel + k * GPT2C_PANEL, *next = b + (end - k) * GPT2C_PANEL;
        const ptrdiff_t steps = (end - k) * (widened ? 2 : 1);
        if (widened) {
            widen(wide, (const uint8_t *)(const void *)b, (end - k) * GPT2C_PANEL);
            b = wide;
        }
        for (ptrdiff_t t = 0; t < tiles; t++) { /* tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1 */
            const ptrdiff_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row, at = row * GPT2C_PANEL;
            stream ahead = stream_ahead((uintptr_t)b, (uintptr_t)next, steps * GPT2C_PANEL / GPT2C_LANES, t,
                                        widened ? 2 * tiles : tiles); /* half as many lines as steps */
            (pairs ? tile_bfloat16 : tile_any)(height, ends ? total + at : chain + at, begins ? NULL : chain + at,
                                               ends && k >= block ? total + at : NULL, GPT2C_PANEL, a + row * ld, ld, b,
                                               GPT2C_PANEL, GPT2C_LANES, steps, GPT2C_PANEL / GPT2C_LANES, &ahead);
        }
    }
}
