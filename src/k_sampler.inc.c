/* One row of logits: its log-sum-exp and that of a subset, its greatest, and one token drawn from it. */

/* The vector at x[i] of n floats, with `fill` in the lanes past the end. */
VEC_INLINE vf v_load_or(const float *x, ptrdiff_t i, ptrdiff_t n, vf fill) {
    return n - i >= GPT2C_LANES ? v_load(x + i) : v_keep_first(v_load_first(x + i, n - i), n - i, fill);
}

/* exp(x) for x <= 0, with 0 below `least`. There v_exp is not called: results that underflow cost a hundred cycles. */
VEC_INLINE vf v_weight(vf x, float least) {
    const vf bound = v_set1(least), zero = v_set1(0.0f);
    if (v_mask_lt(x, bound) == 0) return v_exp(x);
    return v_select_lt(x, bound, zero, v_exp(v_select_lt(x, bound, zero, x)));
}

/* The vector at logits[i], -inf where the mask (NULL: none) or the row ends. */
VEC_INLINE vf v_load_logits(const float *logits, ptrdiff_t i, ptrdiff_t n, const uint16_t *mask) {
    const vf nothing = v_set1(-INFINITY), logit = v_load_or(logits, i, n, nothing);
    return mask ? v_select_mask(mask[i / GPT2C_LANES], logit, nothing) : logit;
}

/* Adds the sums of w x and of w x^2 over n values to *first and *second. They are taken around `centre`, the mean of
 * these values, since float32 would round away a spread that is small beside the mean. `total` is the sum of w. */
VEC_INLINE void add_moments(const float *w, const float *x, ptrdiff_t n, float centre, float total, double *first,
                            double *second) {
    const vf shift = v_set1(centre);
    vf sums = v_set1(0.0f), squares = sums;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const vf away = v_sub(v_load(x + i), shift), product = v_mul(v_load(w + i), away);
        sums = v_add(sums, product);
        squares = v_fma(product, away, squares);
    }
    const double c = (double)centre, sum = (double)v_sum(sums);
    *first += c * (double)total + sum;
    *second += c * c * (double)total + 2.0 * c * sum + (double)v_sum(squares);
}

/* `variance` may be NULL. */
VEC_INLINE ptrdiff_t sums_of(const float *logits, ptrdiff_t n, const uint16_t *mask, float threshold, float *maximum,
                             double *total, double *moment, double *variance) {
    const vf limit = v_set1(threshold);
    vf greatest = v_set1(-INFINITY);
    ptrdiff_t greater = 0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const vf logit = v_load_logits(logits, i, n, mask);
        greatest = v_max(greatest, logit);
        greater += __builtin_popcount(v_mask_lt(limit, logit));
    }
    *maximum = v_max_lane(greatest);
    const vf shift = v_set1(*maximum), least = v_set1(-200.0f); /* exp(-200) = 0, and 0 * -200 is a number */
    double sum = 0.0, product = 0.0, first = 0.0, second = 0.0;
    for (ptrdiff_t block = 0; block < n; block += 256) {
        vf sums = v_set1(0.0f), products = v_set1(0.0f);
        float weights[256], below[256];
        const ptrdiff_t end = n - block < 256 ? n : block + 256;
        for (ptrdiff_t i = block; i < end; i += GPT2C_LANES) {
            if (mask && mask[i / GPT2C_LANES] == 0) continue;
            const vf logit = v_max(least, v_sub(v_load_logits(logits, i, end, mask), shift));
            const vf weight = v_weight(logit, -104.0f); /* exp(-104) rounds to 0 */
            sums = v_add(sums, weight);
            products = v_fma(weight, logit, products);
            if (!variance) continue;
            v_store(weights + (i - block), weight);
            v_store(below + (i - block), logit);
        }
        const float block_sum = v_sum(sums), block_product = v_sum(products);
        sum += (double)block_sum;
        product += (double)block_product;
        if (variance && block_sum > 0.0f)
            add_moments(weights, below, end - block, block_product / block_sum, block_sum, &first, &second);
    }
    *total = sum;
    *moment = product;
    if (variance) {
        const double spread = (second - first * first / sum) / sum;
        *variance = spread < 0.0 ? 0.0 : spread; /* float64 rounds, too */
    }
    return greater;
}

static ptrdiff_t log_sum(const float *logits, ptrdiff_t n, float threshold, float *maximum, double *total,
                         double *moment, double *variance) {
    return sums_of(logits, n, NULL, threshold, maximum, total, moment, variance);
}

static void subset_sum(const float *logits, ptrdiff_t n, const uint16_t *mask, float *maximum, double *total) {
    double moment;
    sums_of(logits, n, mask, INFINITY, maximum, total, &moment, NULL);
    if (*maximum == -INFINITY) *total = 0.0;
}

static ptrdiff_t count_greater(const float *logits, ptrdiff_t n, float threshold) {
    const vf limit = v_set1(threshold);
    ptrdiff_t greater = 0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES)
        greater += __builtin_popcount(v_mask_lt(limit, v_load_or(logits, i, n, limit)));
    return greater;
}

/* Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the first word for the key
 * (seed, stream) and the counter (position, 0, 0, 0), as a number in [0, 1) of 53 bits. */
__extension__ typedef unsigned __int128 wide_product;

static double philox_uniform(uint64_t seed, uint64_t stream, uint64_t position) {
    uint64_t c[4] = {position, 0, 0, 0}, k0 = seed, k1 = stream;
    for (int round = 0; round < 10; round++) {
        const wide_product p0 = (wide_product)0xD2E7470EE14C6C93U * c[0];
        const wide_product p1 = (wide_product)0xCA5A826395121157U * c[2];
        const uint64_t next0 = (uint64_t)(p1 >> 64) ^ c[1] ^ k0, next2 = (uint64_t)(p0 >> 64) ^ c[3] ^ k1;
        c[0] = next0;
        c[1] = (uint64_t)p1;
        c[2] = next2;
        c[3] = (uint64_t)p0;
        k0 += 0x9E3779B97F4A7C15U; /* golden ratio */
        k1 += 0xBB67AE8584CAA73BU; /* sqrt(3) - 1 */
    }
    return (double)(c[0] >> 11) * 0x1p-53;
}

/* out[16 j + lane] = the maximum of that lane over the vectors j, j + columns, j + 2 columns, … of x. Returns the
 * maximum of all. columns is at most the number of vectors in x. */
static float column_maxima(float *out, ptrdiff_t columns, const float *x, ptrdiff_t n) {
    const vf nothing = v_set1(-INFINITY);
    const ptrdiff_t width = columns * GPT2C_LANES;
    for (ptrdiff_t i = 0; i < width; i += GPT2C_LANES) v_store(out + i, v_load_or(x, i, n, nothing));
    for (ptrdiff_t row = width; row < n; row += width)
        for (ptrdiff_t i = 0; i < width && row + i < n; i += GPT2C_LANES)
            v_store(out + i, v_max(v_load(out + i), v_load_or(x, row + i, n, nothing)));
    vf greatest = nothing;
    for (ptrdiff_t i = 0; i < width; i += GPT2C_LANES) greatest = v_max(greatest, v_load(out + i));
    return v_max_lane(greatest);
}

/* Copies the values strictly between `low` and `high`, in order; returns the count. `out` has room for 16 more than it
 * receives, and may be `value`. */
static ptrdiff_t copy_between(float *out, const float *value, ptrdiff_t n, float low, float high) {
    const vf bottom = v_set1(low), top = v_set1(high);
    ptrdiff_t count = 0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const vf v = v_load_or(value, i, n, top);
        const unsigned mask = v_mask_lt(bottom, v) & v_mask_lt(v, top);
        if (mask) count += v_compress(out + count, mask, v);
    }
    return count;
}

/* The lanes in which a and b are equal; neither holds NaN. */
VEC_INLINE unsigned v_mask_equal(vf a, vf b) { return 0xFFFFU & ~(v_mask_lt(a, b) | v_mask_lt(b, a)); }

/* A cut through a set of values: those greater than `edge` stay, and the first `ties` of its equals. */
typedef struct {
    float edge;
    ptrdiff_t ties;
} value_cut;

/* The cut that leaves the smallest set of the greatest values whose measure reaches `wanted`: their number, or with
 * by_mass their sum. The pool holds those values in any order; -inf counts as none. Of the values that may be the edge
 * one is picked, blindly, and those on the wrong side of it leave the pool, until the one picked is the edge. */
VEC_INLINE value_cut find_cut(float *pool, ptrdiff_t n, double wanted, const int by_mass) {
    const vf nothing = v_set1(-INFINITY), zero = v_set1(0.0f);
    value_cut cut = {-INFINITY, 0};
    while (n > 0) {
        const float picked = pool[((uint64_t)n * 0x9E3779B97F4A7C15U >> 32) % (uint64_t)n];
        const vf edge = v_set1(picked);
        double above = 0.0; /* the measure of the greater values */
        ptrdiff_t equal = 0;
        for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
            const vf v = v_load_or(pool, i, n, nothing);
            above += by_mass ? v_sum_double(v_select_lt(edge, v, v, zero)) : __builtin_popcount(v_mask_lt(edge, v));
            equal += __builtin_popcount(v_mask_equal(v, edge));
        }
        const double unit = by_mass ? (double)picked : 1.0, ties = (wanted - above) / unit;
        if (ties <= 0.0) {
            cut.edge = picked;
            n = copy_between(pool, pool, n, picked, INFINITY);
        } else if (ties > (double)equal) {
            wanted -= above + unit * (double)equal;
            n = copy_between(pool, pool, n, -INFINITY, picked);
        } else {
            cut = (value_cut){picked, (ptrdiff_t)ties};
            cut.ties += (double)cut.ties < ties; /* rounded up */
            break;
        }
    }
    return cut;
}

/* Replaces values that the cut removes by `nothing`. */
static void apply_cut(float *value, ptrdiff_t n, value_cut cut, float nothing) {
    const vf edge = v_set1(cut.edge), out = v_set1(nothing);
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const vf v = v_load_or(value, i, n, out);
        unsigned equal = v_mask_equal(v, edge);
        const int all = __builtin_popcount(equal) <= cut.ties;
        v_store_first(value + i, all ? v_select_lt(v, edge, out, v) : v_select_lt(edge, v, v, out), n - i);
        if (all)
            cut.ties -= __builtin_popcount(equal);
        else
            for (; cut.ties > 0; cut.ties--, equal &= equal - 1) value[i + __builtin_ctz(equal)] = cut.edge;
    }
}

/* The ids, ascending, of the logits greater than `bound` and of at least the first k that equal it; none of -inf.
 * Returns how many. */
static ptrdiff_t candidates(int32_t *ids, const float *x, ptrdiff_t n, float bound, ptrdiff_t k) {
    const vf edge = v_set1(bound), nothing = v_set1(-INFINITY);
    ptrdiff_t count = 0, ties = bound > -INFINITY ? k : 0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) {
        const vf logit = v_load_or(x, i, n, nothing);
        unsigned mask = v_mask_lt(edge, logit);
        if (ties > 0) {
            const unsigned equal = v_mask_equal(logit, edge);
            ties -= __builtin_popcount(equal);
            mask |= equal;
        }
        for (; mask; mask &= mask - 1) ids[count++] = (int32_t)i + __builtin_ctz(mask);
    }
    return count;
}

/* The number of columns of maxima for the k greatest of n (0: for one): several for each of them, so that few
 * share one. */
static ptrdiff_t columns_for(ptrdiff_t k, ptrdiff_t n) {
    const ptrdiff_t vectors = (n + GPT2C_LANES - 1) / GPT2C_LANES, enough = k > 256 ? k / 4 : 64;
    return enough < vectors ? enough : vectors;
}

/* The k greatest of x, of equals the first, from its columns of maxima in `pool`: candidates for them, their ids
 * ascending, and their values, or -inf for those that are not among the greatest. Returns how many candidates; `value`
 * may be x. */
static ptrdiff_t greatest_of(int32_t *ids, float *value, const float *x, ptrdiff_t n, ptrdiff_t k, float *pool,
                             ptrdiff_t columns) {
    /* the k-th greatest of the maxima is at most the k-th greatest of all */
    const float bound = find_cut(pool, columns * GPT2C_LANES, (double)k, 0).edge;
    const ptrdiff_t count = candidates(ids, x, n, bound, k);
    for (ptrdiff_t i = 0; i < count; i++) value[i] = pool[i] = x[ids[i]]; /* i <= ids[i] */
    if (k < count) apply_cut(value, count, find_cut(pool, count, (double)k, 0), -INFINITY);
    return count;
}

static void top(int32_t *ids, float *value, const float *logits, ptrdiff_t n, ptrdiff_t k, float *scratch) {
    const ptrdiff_t columns = columns_for(k, n);
    float *values = scratch, *pool = scratch + n;
    int32_t *found = (int32_t *)(void *)(pool + n + GPT2C_LANES);
    column_maxima(pool, columns, logits, n);
    const ptrdiff_t count = greatest_of(found, values, logits, n, k, pool, columns);
    ptrdiff_t kept = 0;
    for (ptrdiff_t i = 0; i < count; i++)
        if (values[i] > -INFINITY) {
            ids[kept] = found[i];
            value[kept++] = logits[found[i]]; /* values has lost the signs of zeros */
        }
    for (; kept < k; kept++) {
        ids[kept] = -1;
        value[kept] = -INFINITY;
    }
}

/* The sum of the weights. */
static double mass_of(const float *weight, ptrdiff_t n) {
    const vf zero = v_set1(0.0f);
    double mass = 0.0;
    for (ptrdiff_t i = 0; i < n; i += GPT2C_LANES) mass += v_sum_double(v_load_or(weight, i, n, zero));
    return mass;
}

/* The first index at which the sum of the weights up to it exceeds `target`, else the last whose weight is not 0, else
 * -1. */
static ptrdiff_t find_target(const float *weight, ptrdiff_t n, double target) {
    const vf zero = v_set1(0.0f);
    double before = 0.0, passed = 0.0; /* at the start and the end of the latest vector that is not all zeros */
    ptrdiff_t at = n, chosen = -1;
    for (ptrdiff_t i = 0; i < n && passed <= target; i += GPT2C_LANES) {
        const double mass = v_sum_double(v_load_or(weight, i, n, zero));
        if (mass > 0.0) {
            before = passed;
            passed += mass;
            at = i;
        }
    }
    for (ptrdiff_t i = at; i < n && i < at + GPT2C_LANES && (chosen < 0 || before <= target); i++)
        if (weight[i] > 0.0f) {
            before += (double)weight[i];
            chosen = i;
        }
    return chosen;
}

static ptrdiff_t sample(const float *logits, ptrdiff_t n, const gpt2c_sampling *s, float *work, int32_t *ids) {
    const float *x = logits;
    float *pool = work + n;

    const ptrdiff_t top_k = s->top_k > 0 && s->top_k < n ? s->top_k : 0, columns = columns_for(top_k, n);
    const float maximum = column_maxima(pool, columns, x, n);
    if (!(maximum > -INFINITY && maximum < INFINITY)) return -1;
    if (s->temperature == 0.0f) {
        candidates(ids, x, n, maximum, 1);
        return ids[0];
    }

    ptrdiff_t count = n;
    if (top_k) {
        count = greatest_of(ids, work, x, n, top_k, pool, columns);
        x = work;
    }

    const vf temperature = v_set1(s->temperature), shift = v_set1(maximum), nothing = v_set1(-INFINITY);
    for (ptrdiff_t i = 0; i < count; i += GPT2C_LANES) {
        const vf logit = v_load_or(x, i, count, nothing);
        v_store_first(work + i, v_weight(v_div(v_sub(logit, shift), temperature), -87.0f), count - i);
    }
    double total = mass_of(work, count);
    if (s->top_p < 1.0f) {
        /* All weights up to `low` are together half of what is left out at most: the edge is not among them. */
        const double share = (double)s->top_p, low = 0.5 * (1.0 - share) * total / (double)count;
        const ptrdiff_t pooled = copy_between(pool, work, count, (float)low, INFINITY);
        apply_cut(work, count, find_cut(pool, pooled, share * total, 1), 0.0f);
    }
    if (s->min_p > 0.0f) apply_cut(work, count, (value_cut){s->min_p, count}, 0.0f); /* the greatest weight is 1 */
    if (s->top_p < 1.0f || s->min_p > 0.0f) total = mass_of(work, count);
    const ptrdiff_t chosen = find_target(work, count, philox_uniform(s->seed, s->stream, s->position) * total);
    return chosen >= 0 && top_k ? ids[chosen] : chosen;
}
