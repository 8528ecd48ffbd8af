"""The learned matrices in the walk: pixels that are means of the model's weights, in a real browser."""

import numpy as np
import pytest
from helpers.explained import data_of
from helpers.toys import random_gpt2
from test_explain_browser import opened, rounded, unharmed
from test_explain_walk import select

from gpt2c.views.pages import explain_page

TEXT = "The king had three daughters"
NAMES = {
    "projection": "attn.c_proj.weight",
    "widening": "mlp.c_fc.weight",
    "narrowing": "mlp.c_proj.weight",
}
# Of each pixel of a picture: how opaque it is, and whether it is bluer than red.
PIXELS = """
(e => { const d = e.getContext('2d').getImageData(0, 0, e.width, e.height).data;
  return Array.from({ length: d.length / 4 }, (_, i) => [d[4 * i + 3], d[4 * i + 2] > d[4 * i]]); })(e)
"""
# How red each pixel of a picture is, read from a copy: a picture that is read twice is a warning.
REDS = """
(e, copy) => { copy.drawImage(e, 0, 0);
  return [...copy.getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 === 0); }
"""


def means(matrix, size=32):
    """The means of size x size equal blocks."""
    rows, columns = matrix.shape
    blocks = matrix.astype(np.float64).reshape(size, rows // size, size, columns // size)
    return blocks.mean(axis=(1, 3))


def pixels(browser, name):
    [found] = browser.all(f"canvas[data-matrix={name}]", PIXELS)
    alphas, blue = np.array(found).T
    return alphas.reshape(32, 32) / 255, blue.reshape(32, 32).astype(bool)


def agree(browser, name, matrix, faded=None):
    alphas, blue = pixels(browser, name)
    exact = means(matrix)
    most = np.abs(exact).max()
    shares = exact / most
    strength = np.abs(shares) * (1 if faded is None else np.where(faded, 0.25, 1))
    assert np.abs(alphas - strength).max() < 0.008, name  # half a step of the codes, and one of the canvas
    seen = (np.abs(shares) > 0.02) & (alphas > 0.02)
    assert np.array_equal(blue[seen], shares[seen] > 0) and seen.any(), name
    caption = browser.all(f".learned:has([data-matrix={name}]) small")
    assert caption[0] == " \N{MULTIPLICATION SIGN} ".join(f"{size:,}" for size in matrix.shape) + " numbers"
    assert rounded(caption[1].rpartition("±")[2], most, most * 0.05)


@pytest.mark.parametrize(("layer", "head"), [(0, 3), (5, 1)])
def test_a_pixel_is_the_mean_of_a_block_of_weights(browser, files, bundled, layer, head):
    opened(browser, files, explain_page(bundled, TEXT, max_new_tokens=1, num_beams=1))
    select(browser, "#walk-layer", layer)
    select(browser, "#walk-head", head)
    weights, places = bundled.weights, np.arange(32)
    of_others = (places < 8 * head) | (places >= 8 * head + 8)  # 4 heads, 32 pixels
    parts = np.split(weights[f"h.{layer}.attn.c_attn.weight"], 3, axis=1)
    for name, matrix in zip(("query", "key", "value"), parts, strict=True):
        agree(browser, name, matrix, np.broadcast_to(of_others, (32, 32)))
    for name, full in NAMES.items():
        faded = np.broadcast_to(of_others[:, None], (32, 32)) if name == "projection" else None
        agree(browser, name, weights[f"h.{layer}.{full}"], faded)
    agree(browser, "tokens", weights["wte.weight"])
    agree(browser, "positions", weights["wpe.weight"])
    unharmed(browser)


def test_pictures_are_drawn_again_in_the_colours_of_the_screen(browser, files, bundled):
    opened(browser, files, explain_page(bundled, TEXT, max_new_tokens=1, num_beams=1))
    script = f"({REDS})(e, document.createElement('canvas').getContext('2d'))"
    try:
        browser.media(dark=False)
        [light] = browser.all("canvas[data-matrix=query]", script)
        browser.media(dark=True)
        browser.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
        [dark] = browser.all("canvas[data-matrix=query]", script)
    finally:
        browser.media()
    assert light != dark
    unharmed(browser)


def test_small_matrices_are_whole_and_heads_that_share_keys_have_one_matrix(browser, files):
    model, _ = random_gpt2(n_kv_head=1)
    html = explain_page(model, [5, 7, 9, 11, 13], max_new_tokens=1, num_beams=1)
    layer = data_of(html)["matrices"]["layers"][1]
    assert [layer[name]["shape"] for name in ("query", "key", "value")] == [[24, 24], [24, 12], [24, 12]]
    assert layer["key"]["size"] == [24, 12]
    opened(browser, files, html)
    [found] = browser.all("canvas[data-matrix=key]", PIXELS)
    layer_shown = int(browser.js("document.querySelector('#walk-layer').value"))
    key = model.weights[f"h.{layer_shown}.attn.c_attn.weight"][:, 24:36]
    alphas = np.array(found)[:, 0].reshape(24, 12) / 255
    assert np.abs(alphas - np.abs(key) / np.abs(key).max()).max() < 0.008
    unharmed(browser)


def test_the_pictures_of_a_large_model_take_little_room(monkeypatch):
    from gpt2c.views.pages.matrices import matrices
    from gpt2c.views.pages.parts import json_text

    model, _ = random_gpt2()
    weights = {name: np.ones((64, 192 if "c_attn" in name else 64), np.float32) for name in model.weights}
    config = type("Config", (), {"n_layer": 48, "n_head": 4, "n_kv_head": 4, "head_dim": 16})
    for name in list(weights):
        for i in range(48):
            weights[name.replace("h.0.", f"h.{i}.")] = weights[name]
    large = type("Model", (), {"config": config, "weights": weights})
    found = matrices(large)
    assert len(json_text(found)) < 150_000 and found["layers"][47]["query"]["size"] == [16, 16]
