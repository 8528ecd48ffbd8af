/* exp, tanh, erf, sigmoid and the activations, one recipe on every ISA (coefficients: fit_polynomials.py), and the
 * epilogue of a dense layer. NaN gives NaN; exp(-inf) = 0, exp(inf) = inf, tanh and erf of ±inf = ±1; an activation of
 * -inf is NaN where its formula is -inf * 0, as in PyTorch. */

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. Results that are subnormal or overflow are rounded once.
 */
VEC_INLINE vf v_exp(vf x) {
    x = v_max(v_set1(-105.0f), x);                            /* exp(-105) rounds to 0 */
    x = v_select_lt(v_set1(90.0f), x, v_set1(90.0f), x);      /* exp(90) is infinite */
    const vf n = v_round(v_mul(x, v_set1(1.442695041e+00f))); /* 1 / ln 2 */
    vf r = v_fma(n, v_set1(-6.931471825e-01f), x);            /* ln 2 in two parts */
    r = v_fma(n, v_set1(1.904654323e-09f), r);
    vf p = v_set1(1.991838508e-04f);
    p = v_fma(p, r, v_set1(1.394607360e-03f));
    p = v_fma(p, r, v_set1(8.333263919e-03f));
    p = v_fma(p, r, v_set1(4.166626930e-02f));
    p = v_fma(p, r, v_set1(1.666666716e-01f));
    p = v_fma(p, r, v_set1(5.000000000e-01f));
    p = v_fma(p, v_mul(r, r), r);
    return v_scale(v_add(p, v_set1(1.0f)), n);
}

VEC_INLINE vf v_sigmoid(vf x) {
    const vf one = v_set1(1.0f);
    return v_div(one, v_add(one, v_exp(v_sub(v_set1(0.0f), x))));
}

/* x + x^3 p(x^2) below 0.625, else 1 - 2 / (exp(2x) + 1). */
VEC_INLINE vf v_tanh(vf x) {
    const vf size = v_abs(x), z = v_mul(x, x), one = v_set1(1.0f);
    vf p = v_set1(2.147539984e-03f);
    p = v_fma(p, z, v_set1(-8.182677440e-03f));
    p = v_fma(p, z, v_set1(2.170296945e-02f));
    p = v_fma(p, z, v_set1(-5.394720286e-02f));
    p = v_fma(p, z, v_set1(1.333321035e-01f));
    p = v_fma(p, z, v_set1(-3.333333135e-01f));
    const vf small = v_fma(v_mul(p, z), x, x);
    const vf large = v_sub(one, v_div(v_set1(2.0f), v_add(v_exp(v_add(size, size)), one)));
    return v_copysign(v_select_lt(size, v_set1(0.625f), small, large), x); /* small, too: fma gives +0 for -0 */
}

/* x p(x^2) below 1, else 1 - exp(-q(|x|)), with q = -log(erfc); beyond 4 the result is 1 to the last bit. */
VEC_INLINE vf v_erf(vf x) {
    const vf size = v_abs(x), z = v_mul(x, x);
    vf p = v_set1(-9.680140465e-06f);
    p = v_fma(p, z, v_set1(1.127054566e-04f));
    p = v_fma(p, z, v_set1(-8.484711871e-04f));
    p = v_fma(p, z, v_set1(5.221074913e-03f));
    p = v_fma(p, z, v_set1(-2.686544508e-02f));
    p = v_fma(p, z, v_set1(1.128378287e-01f));
    p = v_fma(p, z, v_set1(-3.761263788e-01f));
    p = v_fma(p, z, v_set1(1.128379226e+00f));
    const vf small = v_mul(p, x);
    const vf t = v_sub(v_select_lt(v_set1(4.0f), size, v_set1(4.0f), size), v_set1(2.5f));
    vf q = v_set1(-5.260674811e-07f);
    q = v_fma(q, t, v_set1(1.866661296e-05f));
    q = v_fma(q, t, v_set1(-6.845629832e-05f));
    q = v_fma(q, t, v_set1(4.243552976e-04f));
    q = v_fma(q, t, v_set1(-2.168476582e-03f));
    q = v_fma(q, t, v_set1(1.085486636e-02f));
    q = v_fma(q, t, v_set1(9.438929558e-01f));
    q = v_fma(q, t, v_set1(5.352680683e+00f));
    q = v_fma(q, t, v_set1(7.806815147e+00f));
    const vf large = v_sub(v_set1(1.0f), v_exp(v_sub(v_set1(0.0f), q)));
    return v_select_lt(size, v_set1(1.0f), small, v_copysign(large, x));
}

/* x sigmoid(s) without the cancellation of 1 + tanh. */
VEC_INLINE vf v_gate(vf x, vf s) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_set1(0.0f), s)))); }

VEC_INLINE vf v_function(const gpt2c_function function, vf x) {
    switch (function) {
    case GPT2C_GELU_NEW: /* 2 sqrt(2/pi) = 1.5957691…, times 0.044715 = 0.0713548… */
        return v_gate(x, v_mul(x, v_fma(v_mul(x, x), v_set1(7.135481628e-02f), v_set1(1.595769122e+00f))));
    case GPT2C_GELU:
        return v_mul(v_mul(v_set1(0.5f), x), v_add(v_set1(1.0f), v_erf(v_mul(x, v_set1(7.071067812e-01f)))));
    case GPT2C_QUICK_GELU:
        return v_gate(x, v_mul(x, v_set1(1.702f)));
    case GPT2C_RELU:
        return v_max(v_set1(0.0f), x);
    case GPT2C_SILU:
        return v_gate(x, x);
    case GPT2C_TANH:
        return v_tanh(x);
    case GPT2C_EXP:
        return v_exp(x);
    case GPT2C_ERF:
        return v_erf(x);
    case GPT2C_SIGMOID:
        return v_sigmoid(x);
    case GPT2C_IDENTITY:
    case GPT2C_N_FUNCTIONS:
        break;
    }
    return x;
}

/* With `function` a constant, so that the switch is resolved outside the loop. */
VEC_INLINE void epilogue_rows(const gpt2c_function function, float *out, ptrdiff_t ld_out, const float *sums,
                              ptrdiff_t ld_sums, const float *bias, const float *residual, ptrdiff_t rows,
                              ptrdiff_t n) {
    for (ptrdiff_t r = 0; r < rows; r++) {
        float *y = out + r * ld_out;
        const float *x = sums + r * ld_sums, *base = residual ? residual + r * ld_out : NULL;
        ptrdiff_t c = 0;
        for (; c + GPT2C_LANES <= n; c += GPT2C_LANES) {
            vf value = v_load(x + c);
            if (bias) value = v_add(value, v_load(bias + c));
            value = v_function(function, value);
            if (base) value = v_add(v_load(base + c), value);
            v_store(y + c, value);
        }
        if (c < n) { /* the same recipe on the lanes that are left */
            vf value = v_load_first(x + c, n - c);
            if (bias) value = v_add(value, v_load_first(bias + c, n - c));
            value = v_function(function, value);
            if (base) value = v_add(v_load_first(base + c, n - c), value);
            v_store_first(y + c, value, n - c);
        }
    }
}

static void epilogue(float *out, ptrdiff_t ld_out, const float *sums, ptrdiff_t ld_sums, const float *bias,
                     const gpt2c_epilogue *what, ptrdiff_t rows, ptrdiff_t n) {
#define EPILOGUE_CASE(name)                                                                                            \
    case name:                                                                                                         \
        epilogue_rows(name, out, ld_out, sums, ld_sums, bias, what->residual, rows, n);                                \
        break
    switch (what->function) {
        EPILOGUE_CASE(GPT2C_IDENTITY);
        EPILOGUE_CASE(GPT2C_GELU_NEW);
        EPILOGUE_CASE(GPT2C_GELU);
        EPILOGUE_CASE(GPT2C_QUICK_GELU);
        EPILOGUE_CASE(GPT2C_RELU);
        EPILOGUE_CASE(GPT2C_SILU);
        EPILOGUE_CASE(GPT2C_TANH);
        EPILOGUE_CASE(GPT2C_EXP);
        EPILOGUE_CASE(GPT2C_ERF);
        EPILOGUE_CASE(GPT2C_SIGMOID);
    case GPT2C_N_FUNCTIONS:
        break;
    }
#undef EPILOGUE_CASE
}

static void apply(float *out, const float *x, ptrdiff_t n, gpt2c_function function) {
    const gpt2c_epilogue what = {function, NULL};
    epilogue(out, n, x, n, NULL, &what, 1, n);
}
