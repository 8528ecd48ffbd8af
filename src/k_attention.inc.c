/* Causal attention over a cache, for some consecutive queries of one head. */

#ifdef V_FOLD8
/* Four numbers of row `first` and of each fourth row after it; instead of rows that do not exist, of the last one. */
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

static void store_keys(void *out, int half, const float *x, ptrdiff_t ld_x, ptrdiff_t rows, ptrdiff_t n) {
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
                v_hide(to); /* here and below: not to become scatters */
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

/* How many keys of the block that begins at `key` the query at `position` may see. */
VEC_INLINE ptrdiff_t keys_seen(ptrdiff_t position, ptrdiff_t key) {
    return position + 1 - key < GPT2C_KEY_BLOCK ? position + 1 - key : GPT2C_KEY_BLOCK;
}

/* scores[0 … valid) are multiplied by scale, with -inf up to a multiple of 16; returns the greatest. Scores beyond are
 * of keys that this query may not see (or that were never written): they are replaced, never computed with. */
VEC_INLINE float scale_scores(float *scores, ptrdiff_t valid, float scale) {
    const vf factor = v_set1(scale), nothing = v_set1(-INFINITY);
    const ptrdiff_t whole = valid - valid % GPT2C_LANES;
    vf greatest = nothing;
    for (ptrdiff_t j = 0; j < whole; j += GPT2C_LANES) {
        const vf score = v_mul(v_load(scores + j), factor);
        v_store(scores + j, score);
        greatest = v_max(greatest, score);
    }
    if (whole < valid) {
        const vf score = v_keep_first(v_mul(v_load(scores + whole), factor), valid - whole, nothing);
        v_store(scores + whole, score);
        greatest = v_max(greatest, score);
    }
    return v_max_lane(greatest);
}

/* Scaled scores become weights exp(score - maximum); returns their sum. */
VEC_INLINE float exponentials(float *scores, ptrdiff_t valid, float maximum) {
    const vf shift = v_set1(maximum);
    vf sum = v_set1(0.0f);
    for (ptrdiff_t j = 0; j < valid; j += GPT2C_LANES) {
        const vf weight = v_exp(v_sub(v_load(scores + j), shift));
        v_store(scores + j, weight);
        sum = v_add(sum, weight);
    }
    return v_sum(sum);
}

/* The keys and values of a block as float32: the first `shared` positions at k0 and v0, the others at k and v. */
typedef struct {
    const float *k0, *v0, *k, *v;
    ptrdiff_t shared;
} block_keys;

/* Of the block that begins at `key`, its first `most` positions. wide: room for a block widened from float16. */
VEC_INLINE block_keys block_at(const gpt2c_keys *from, ptrdiff_t key, ptrdiff_t most, ptrdiff_t d_head, ptrdiff_t d_pad,
                               float *wide) {
    /* The block's first keys lie in the shared part of the cache, the others in its own. */
    const ptrdiff_t before = from->shared - key, own = before < 0 ? -before : 0;
    const ptrdiff_t shared = before < 0 ? 0 : before < GPT2C_KEY_BLOCK ? before : GPT2C_KEY_BLOCK;
    if (from->half) {
        const ptrdiff_t groups = (most + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES;
        float *wide_values = wide + GPT2C_KEY_BLOCK * d_pad;
        if (shared > 0) {
            widen_halves(wide, (const uint16_t *)from->k0 + key * d_head, shared * d_head);
            widen_halves(wide_values, (const uint16_t *)from->v0 + key * d_pad, shared * d_pad);
        }
        widen_halves(wide + shared * d_head, (const uint16_t *)from->k + own * d_head, (groups - shared) * d_head);
        widen_halves(wide_values + shared * d_pad, (const uint16_t *)from->v + own * d_pad, (most - shared) * d_pad);
        return (block_keys){wide, wide_values, wide, wide_values, 0};
    }
    const float *k = (const float *)from->k + own * d_head, *v = (const float *)from->v + own * d_pad;
    if (shared == 0) return (block_keys){k, v, k, v, 0};
    return (block_keys){(const float *)from->k0 + key * d_head, (const float *)from->v0 + key * d_pad, k, v, shared};
}

/* Row i of partial: the weighted values over the keys of one block that query i sees, the greatest score, the sum of
 * the weights; left alone where query i sees none. scores: [rows][128]. All queries go over the keys and then over the
 * values, so that both come from a first-level cache. */
static void keys_of_block(float *partial, ptrdiff_t ld_partial, const float *q, ptrdiff_t ld_q, const gpt2c_keys *from,
                          ptrdiff_t rows, ptrdiff_t first, ptrdiff_t d_head, float scale, ptrdiff_t key,
                          float *scores) {
    const ptrdiff_t strips = (d_head + GPT2C_LANES - 1) / GPT2C_LANES, d_pad = strips * GPT2C_LANES;
    const ptrdiff_t begin = key > first ? key - first : 0;
    const block_keys at = block_at(from, key, keys_seen(first + rows - 1, key), d_head, d_pad,
                                   scores + GPT2C_QUERIES * (GPT2C_KEY_BLOCK + 2 * GPT2C_PARTIAL(d_pad)));
    const float *k = at.k, *k0 = at.k0, *v = at.v, *v0 = at.v0;
    const ptrdiff_t shared = at.shared;
    /* The first rows ask for what is read a little later: the block after this; or after the last one, while its keys
     * are read, its values, and then the keys that come next. */
    const int last = first + rows <= key + GPT2C_KEY_BLOCK;
    stream after_keys = {last ? (uintptr_t)v0 : (uintptr_t)k0 + STREAM_DISTANCE, from->half ? 0 : 64};
    stream after_values = {last ? (uintptr_t)from->next : (uintptr_t)v0 + STREAM_DISTANCE,
                           from->half || (last && !from->next) ? 0 : 64};

    for (ptrdiff_t row = begin, height; row < rows; row += height) {
        height = rows - row < GPT2C_TILE_ROWS ? rows - row : GPT2C_TILE_ROWS;
        const ptrdiff_t seen = keys_seen(first + row + height - 1, key), rest = seen - shared;
        if (shared > 0)
            tile_any(height, scores + row * GPT2C_KEY_BLOCK, NULL, NULL, GPT2C_KEY_BLOCK, q + row * ld_q, ld_q, k0,
                     GPT2C_LANES, d_head * GPT2C_LANES, d_head, shared / GPT2C_LANES, &after_keys);
        if (rest > 0)
            tile_any(height, scores + row * GPT2C_KEY_BLOCK + shared, NULL, NULL, GPT2C_KEY_BLOCK, q + row * ld_q, ld_q,
                     k, GPT2C_LANES, d_head * GPT2C_LANES, d_head, (rest + GPT2C_LANES - 1) / GPT2C_LANES, &after_keys);
        after_keys.share = 0;
    }
    for (ptrdiff_t i = begin; i < rows; i++) /* in two loops: the rows of each do not wait for one another */
        partial[i * ld_partial + d_pad] = scale_scores(scores + i * GPT2C_KEY_BLOCK, keys_seen(first + i, key), scale);
    for (ptrdiff_t i = begin; i < rows; i++)
        partial[i * ld_partial + d_pad + 1] =
            exponentials(scores + i * GPT2C_KEY_BLOCK, keys_seen(first + i, key), partial[i * ld_partial + d_pad]);
    for (ptrdiff_t row = begin, height; row < rows; row += height) {
        height = rows - row < GPT2C_TILE_ROWS ? rows - row : GPT2C_TILE_ROWS;
        /* The keys that all queries of the tile see, together; then each query's own rest. A weight of zero is not good
         * enough: zero times an infinite value of a later token is NaN. */
        const ptrdiff_t common = keys_seen(first + row, key);
        float *sums = partial + row * ld_partial;
        if (shared > 0)
            tile_any(height, sums, NULL, NULL, ld_partial, scores + row * GPT2C_KEY_BLOCK, GPT2C_KEY_BLOCK, v0, d_pad,
                     GPT2C_LANES, shared, strips, &after_values);
        if (common > shared)
            tile_any(height, sums, shared > 0 ? sums : NULL, NULL, ld_partial, scores + row * GPT2C_KEY_BLOCK + shared,
                     GPT2C_KEY_BLOCK, v, d_pad, GPT2C_LANES, common - shared, strips, &after_values);
        after_values.share = 0;
        for (ptrdiff_t i = row + 1; i < row + height; i++) {
            float *to = partial + i * ld_partial;
            const ptrdiff_t rest = keys_seen(first + i, key) - common;
            if (rest > 0)
                tile_any(1, to, to, NULL, ld_partial, scores + i * GPT2C_KEY_BLOCK + common, GPT2C_KEY_BLOCK,
                         v + (common - shared) * d_pad, d_pad, GPT2C_LANES, rest, strips, &after_values);
        }
    }
}

/* total = total and then block, both rows as keys_of_block leaves them. */
static void merge_rows(float *total, const float *block, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t d_pad) {
    for (ptrdiff_t row = 0; row < rows; row += GPT2C_LANES, total += GPT2C_LANES * ld, block += GPT2C_LANES * ld) {
        const ptrdiff_t n = rows - row < GPT2C_LANES ? rows - row : GPT2C_LANES;
        float state[4][GPT2C_LANES] = {{0}}, keep[GPT2C_LANES], join[GPT2C_LANES]; /* a row in each lane */
        for (ptrdiff_t i = 0; i < n; i++) {
            state[0][i] = total[i * ld + d_pad];
            state[1][i] = block[i * ld + d_pad];
            state[2][i] = total[i * ld + d_pad + 1];
            state[3][i] = block[i * ld + d_pad + 1];
        }
        const vf before = v_load(state[0]), here = v_load(state[1]), greatest = v_max(before, here);
        const vf kept = v_exp(v_sub(before, greatest)), joined = v_exp(v_sub(here, greatest));
        v_store(keep, kept);
        v_store(join, joined);
        v_store(state[0], greatest);
        v_store(state[2], v_fma(v_load(state[2]), kept, v_mul(v_load(state[3]), joined)));
        for (ptrdiff_t i = 0; i < n; i++) {
            float *to = total + i * ld;
            const float *from = block + i * ld;
            for (ptrdiff_t c = 0; c < d_pad; c += GPT2C_LANES)
                v_store(to + c, v_fma(v_load(to + c), v_set1(keep[i]), v_mul(v_load(from + c), v_set1(join[i]))));
            to[d_pad] = state[0][i];
            to[d_pad + 1] = state[2][i];
        }
    }
}

static void finish_row(float *out, const float *total, ptrdiff_t d_head, ptrdiff_t d_pad) {
    const vf divisor = v_set1(total[d_pad + 1]);
    for (ptrdiff_t c = 0; c < d_head; c += GPT2C_LANES)
        v_store_first(out + c, v_div(v_load(total + c), divisor), d_head - c);
}

static void attention(float *out, ptrdiff_t ld_out, const float *q, ptrdiff_t ld_q, const gpt2c_keys *keys,
                      ptrdiff_t rows, ptrdiff_t first, ptrdiff_t d_head, float scale, float *scratch) {
    const ptrdiff_t d_pad = (d_head + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES, ld = GPT2C_PARTIAL(d_pad);
    float *scores = scratch, *total = scores + GPT2C_QUERIES * GPT2C_KEY_BLOCK, *block = total + GPT2C_QUERIES * ld;
    for (ptrdiff_t key = 0; key < first + rows; key += GPT2C_KEY_BLOCK) {
        keys_of_block(key == 0 ? total : block, ld, q, ld_q, keys, rows, first, d_head, scale, key, scores);
        const ptrdiff_t begin = key > first ? key - first : 0; /* the first query that sees this block */
        if (key > 0) merge_rows(total + begin * ld, block + begin * ld, ld, rows - begin, d_pad);
    }
    for (ptrdiff_t i = 0; i < rows; i++) finish_row(out + i * ld_out, total + i * ld, d_head, d_pad);
}

static void attention_block(float *partial, ptrdiff_t ld_partial, const float *q, ptrdiff_t ld_q,
                            const gpt2c_keys *keys, ptrdiff_t rows, ptrdiff_t first, ptrdiff_t d_head, float scale,
                            ptrdiff_t block, float *scratch) {
    keys_of_block(partial, ld_partial, q, ld_q, keys, rows, first, d_head, scale, block * GPT2C_KEY_BLOCK, scratch);
}

static void attention_merge(float *out, const float *partial, ptrdiff_t blocks, ptrdiff_t d_head, float *scratch) {
    const ptrdiff_t d_pad = (d_head + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES, ld = GPT2C_PARTIAL(d_pad);
    memcpy(scratch, partial, (size_t)ld * sizeof *scratch);
    for (ptrdiff_t b = 1; b < blocks; b++) merge_rows(scratch, partial + b * ld, ld, 1, d_pad);
    finish_row(out, scratch, d_head, d_pad);
}

/* ---- the same in steps, for observers ---- */

static void attention_scores(float *out, const float *q, const gpt2c_keys *keys, ptrdiff_t position, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float scale, float *scratch) {
    const ptrdiff_t d_pad = (d_head + GPT2C_LANES - 1) / GPT2C_LANES * GPT2C_LANES, step = d_head * GPT2C_LANES;
    float *wide = scratch + GPT2C_QUERIES * (GPT2C_KEY_BLOCK + 2 * GPT2C_PARTIAL(d_pad));
    stream none = {0, 0};
    for (ptrdiff_t j = position + 1; j < n_keys; j++) out[j] = -INFINITY;
    for (ptrdiff_t key = 0; key <= position; key += GPT2C_KEY_BLOCK) {
        const ptrdiff_t seen = keys_seen(position, key);
        const block_keys at = block_at(keys, key, seen, d_head, d_pad, wide);
        const ptrdiff_t own = (seen - at.shared + GPT2C_LANES - 1) / GPT2C_LANES;
        if (at.shared > 0)
            tile_any(1, scratch, NULL, NULL, GPT2C_KEY_BLOCK, q, d_head, at.k0, GPT2C_LANES, step, d_head,
                     at.shared / GPT2C_LANES, &none);
        if (own > 0)
            tile_any(1, scratch + at.shared, NULL, NULL, GPT2C_KEY_BLOCK, q, d_head, at.k, GPT2C_LANES, step, d_head,
                     own, &none);
        scale_scores(scratch, seen, scale);
        memcpy(out + key, scratch, (size_t)seen * sizeof *scratch);
    }
}

static void softmax(float *out, const float *x, ptrdiff_t n) {
    const vf nothing = v_set1(-INFINITY);
    vf greatest = nothing, sum = v_set1(0.0f);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        greatest = v_max(greatest, v_keep_first(v_load_first(x + j, left), left, nothing));
    }
    const float most = v_max_lane(greatest);
    const vf shift = v_set1(most == -INFINITY ? 0.0f : most);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        const vf weight = v_exp(v_sub(v_keep_first(v_load_first(x + j, left), left, nothing), shift));
        sum = v_add(sum, weight);
        v_store_first(out + j, weight, left);
    }
    const float total = v_sum(sum);
    const vf divisor = v_set1(total == 0.0f ? 1.0f : total);
    for (ptrdiff_t j = 0; j < n; j += GPT2C_LANES) {
        const ptrdiff_t left = n - j < GPT2C_LANES ? n - j : GPT2C_LANES;
        v_store_first(out + j, v_div(v_load_first(out + j, left), divisor), left);
    }
}

static void attention_values(float *out, const float *pattern, const gpt2c_keys *keys, ptrdiff_t n_keys,
                             ptrdiff_t d_head, float *scratch) {
    const ptrdiff_t strips = (d_head + GPT2C_LANES - 1) / GPT2C_LANES, d_pad = strips * GPT2C_LANES;
    float *wide = scratch + GPT2C_QUERIES * (GPT2C_KEY_BLOCK + 2 * GPT2C_PARTIAL(d_pad)), *sums = NULL;
    stream none = {0, 0};
    for (ptrdiff_t key = 0; key < n_keys; key += GPT2C_KEY_BLOCK) {
        const ptrdiff_t seen = n_keys - key < GPT2C_KEY_BLOCK ? n_keys - key : GPT2C_KEY_BLOCK;
        const block_keys at = block_at(keys, key, seen, d_head, d_pad, wide);
        if (at.shared > 0) {
            const ptrdiff_t shared = at.shared < seen ? at.shared : seen;
            tile_any(1, scratch, sums, NULL, d_pad, pattern + key, n_keys, at.v0, d_pad, GPT2C_LANES, shared, strips,
                     &none);
            sums = scratch;
        }
        if (seen > at.shared)
            tile_any(1, scratch, sums, NULL, d_pad, pattern + key + at.shared, n_keys, at.v, d_pad, GPT2C_LANES,
                     seen - at.shared, strips, &none);
        sums = scratch;
    }
    memcpy(out, scratch, (size_t)d_head * sizeof *out);
}
