/* Keys and values into a cache, in its number format. */

#ifdef V_FOLD8
/* Four numbers of row `first` and of each fourth row after it; for missing rows, of the last one. */
VEC_INLINE vf quarters_of_rows(const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t first) {
    const ptrdiff_t last = rows - 1, b = first + 4, c = first + 8, d = first + 12;
    return v_load_quarters(x + (first < last ? first : last) * ld_x, x + (b < last ? b : last) * ld_x,
                           x + (c < last ? c : last) * ld_x, x + (d < last ? d : last) * ld_x);
}

VEC_INLINE void store_lanes(void *out, int half, ptrdiff_t at, vf x, ptrdiff_t n) {
    if (half && n == GPT2C_LANES)
        v_store_float16((uint16_t *)out + at, x);
    else if (half)
        store_first_float16((uint16_t *)out + at, x, n);
    else if (n == GPT2C_LANES)
        v_store((float *)out + at, x);
    else
        v_store_first((float *)out + at, x, n);
}

/* Four columns at a time: two rounds of zips transpose the quarters of four vectors. n is a multiple of 4. */
VEC_INLINE void store_columns(void *out, int half, const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += 4, x += 4) {
        const vf a = quarters_of_rows(x, ld_x, rows, 0), b = quarters_of_rows(x, ld_x, rows, 1);
        const vf c = quarters_of_rows(x, ld_x, rows, 2), d = quarters_of_rows(x, ld_x, rows, 3);
        const vf ac = v_zip_low(a, c), bd = v_zip_low(b, d), ac_high = v_zip_high(a, c), bd_high = v_zip_high(b, d);
        const ptrdiff_t at = i * GPT2C_LANES;
        store_lanes(out, half, at, v_zip_low(ac, bd), rows);
        store_lanes(out, half, at + GPT2C_LANES, v_zip_high(ac, bd), rows);
        store_lanes(out, half, at + 2 * GPT2C_LANES, v_zip_low(ac_high, bd_high), rows);
        store_lanes(out, half, at + 3 * GPT2C_LANES, v_zip_high(ac_high, bd_high), rows);
    }
}
#endif

/* out[16 i + r] = x[r][i], r < rows <= 16, i < n, as floats or as float16. */
static void store_transposed(void *out, int half, const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    ptrdiff_t done = 0;
#ifdef V_FOLD8
    if (rows >= (half ? 8 : 4)) done = n - n % 4; /* of fewer rows, number by number takes fewer instructions */
    if (rows == GPT2C_LANES)
        store_columns(out, half, x, ld_x, GPT2C_LANES, done);
    else
        store_columns(out, half, x, ld_x, rows, done);
#endif
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float *from = x + r * ld_x;
        if (half) {
            uint16_t halves[GPT2C_PANEL], *to = (uint16_t *)out + done * GPT2C_LANES + r;
            narrow(halves, from + done, n - done);
            for (ptrdiff_t i = 0; i < n - done; i++, to += GPT2C_LANES) {
                *to = halves[i];
                v_hide(to); /* here and below: prevents scatters */
            }
        } else {
            float *to = (float *)out + done * GPT2C_LANES + r;
            for (ptrdiff_t i = done; i < n; i++, to += GPT2C_LANES) {
                *to = from[i];
                v_hide(to);
            }
        }
    }
}

/* x[0 … n), n <= 64, rounded to bfloat16; zeros up to 64. */
static void round_row(uint16_t *out, const float *x, ptrdiff_t n) {
    uint32_t bits[GPT2C_GROUP];
    vf part[4];
    load_rounded(part, x, n);
    memcpy(bits, part, sizeof bits);
    for (int i = 0; i < GPT2C_GROUP; i++) out[i] = (uint16_t)(bits[i] >> 16);
}

/* Words of two inputs. Where d_head is odd, the second half of the last one is zero. */
static void store_key_pairs(uint32_t *group, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head, const float *x,
                            ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    if (first % 2 == 0 && (n % 2 == 0 || first + n == d_head)) {
        float words[GPT2C_LANES][GPT2C_GROUP / 2];
        for (ptrdiff_t r = 0; r < rows; r++) pack_pairs(words[r], x + r * ld_x, n);
        store_transposed(group + first / 2 * GPT2C_LANES + lane, 0, words[0], GPT2C_GROUP / 2, rows, (n + 1) / 2);
        return;
    }
    const ptrdiff_t end = first + n + (first + n == d_head && d_head % 2);
    for (ptrdiff_t r = 0; r < rows; r++) {
        uint16_t rounded[GPT2C_GROUP + 1] = {0};
        round_row(rounded, x + r * ld_x, n);
        for (ptrdiff_t i = first; i < end; i++) {
            uint16_t *word = (uint16_t *)(group + i / 2 * GPT2C_LANES + lane + r);
            word[1 - i % 2] = rounded[i - first];
        }
    }
}

/* Words of two positions: one without its neighbour fills its halves only, as the others may be another thread's. */
static void store_value_pairs(uint32_t *group, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head, const float *x,
                              ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), padding = first + n == d_head ? d_pad - d_head : 0;
    for (ptrdiff_t r = 0, height; r < rows; r += height, x += height * ld_x, lane += height) {
        uint32_t *words = group + lane / 2 * d_pad + first;
        height = lane % 2 == 0 && r + 1 < rows ? 2 : 1;
        if (height == 2) {
            vf one[4], two[4];
            load_rounded(one, x, n);
            load_rounded(two, x + ld_x, n);
            for (int v = 0; v * GPT2C_LANES < n; v++)
                v_store_first((float *)words + v * GPT2C_LANES, v_pair(one[v], two[v]), n - v * GPT2C_LANES);
            memset(words + n, 0, (size_t)padding * sizeof *words);
        } else {
            uint16_t rounded[GPT2C_GROUP + GPT2C_LANES] = {0}, *half = (uint16_t *)words + 1 - lane % 2;
            round_row(rounded, x, n);
            for (ptrdiff_t i = 0; i < n + padding; i++) half[2 * i] = rounded[i];
        }
    }
}

static void store_keys(void *group, gpt2c_cache_dtype dtype, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head,
                       const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t at = first * GPT2C_LANES + lane;
    if (dtype == GPT2C_CACHE_FLOAT32)
        store_transposed((float *)group + at, 0, x, ld_x, rows, n);
    else if (dtype == GPT2C_CACHE_FLOAT16)
        store_transposed((uint16_t *)group + at, 1, x, ld_x, rows, n);
    else
        store_key_pairs(group, lane, first, d_head, x, ld_x, rows, n);
}

static void store_values(void *group, gpt2c_cache_dtype dtype, ptrdiff_t lane, ptrdiff_t first, ptrdiff_t d_head,
                         const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
    const ptrdiff_t d_pad = GPT2C_PAD(d_head), at = lane * d_pad + first;
    const size_t padding = (size_t)(first + n == d_head ? d_pad - d_head : 0);
    if (dtype == GPT2C_CACHE_BFLOAT16) {
        store_value_pairs(group, lane, first, d_head, x, ld_x, rows, n);
        return;
    }
    for (ptrdiff_t r = 0; r < rows; r++, x += ld_x)
        if (dtype == GPT2C_CACHE_FLOAT32) {
            float *to = (float *)group + at + r * d_pad;
            memcpy(to, x, (size_t)n * sizeof *to);
            memset(to + n, 0, padding * sizeof *to);
        } else {
            uint16_t *to = (uint16_t *)group + at + r * d_pad;
            narrow(to, x, n);
            memset(to + n, 0, padding * sizeof *to);
        }
}
