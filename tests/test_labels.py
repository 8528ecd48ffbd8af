"""Labels of tokens: what shares a character is labelled with it."""

import pytest

from gpt2c.core.labels import labels


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            ["a", " b", "\\xe5", "\\x9b", "\\xbd", "c"],
            ["a", "\u2423b", "\u56fd 1/3", "\u56fd 2/3", "\u56fd 3/3", "c"],
        ),
        ([" \\xe5\\x9b", "\\xbd!"], ["\u2423\u56fd! 1/2", "\u2423\u56fd! 2/2"]),
        (["\\xc3", "\\xa9", "\\xc3", "\\xa9"], ["\u00e9 1/2", "\u00e9 2/2"] * 2),
        (["\u56fd", "\u00e9"], ["\u56fd", "\u00e9"]),
        (["\\xe5", "\\x9b", "a"], ["\\xe5", "\\x9b", "a"]),  # the character is never completed
        (["\\xe5", "\\x9b"], ["\\xe5", "\\x9b"]),
        (["\\x9b", "a"], ["\\x9b", "a"]),
        (["", "a"], ["token 0", "a"]),
    ],
)
def test_tokens_that_share_a_character_have_it_with_a_number_each(texts, expected):
    assert labels(texts, range(len(texts))) == expected
