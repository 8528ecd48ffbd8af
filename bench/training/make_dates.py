"""Write the data of the dates model: dates in English words, and the same in digits.

`python make_dates.py DIR` writes to DIR

- train.tsv and heldout.tsv: a date as people write it, its digits and the form, separated by tabs. Every day
  of the years 1000 to 2999 occurs once, in a random form; 10,000 of the days are held out.
- vocab.json and merges.txt: a byte-level BPE of 512 tokens, learned from train.tsv; each digit is a token.
"""

import calendar
import random
import sys
from datetime import date, timedelta
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HELD_OUT = 10_000
FIRST, LAST = date(1000, 1, 1), date(2999, 12, 31)
VOCABULARY = 512

MONTHS = calendar.month_name[1:]
WEEKDAYS = list(calendar.day_name)
BELOW_TWENTY = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
IRREGULAR = dict(
    one="first", two="second", three="third", five="fifth", eight="eighth", nine="ninth", twelve="twelfth",
    twenty="twentieth", thirty="thirtieth",
)  # fmt: skip

# {o} is 3rd or third, {d} is 3 or 03, {n} is three, {c} is ", " or " ".
DAY_FIRST = ["{o} {m}{c}{y}", "{o} of {m}{c}{y}", "the {o} of {m}{c}{y}"]
MONTH_FIRST = ["{m} {o}{c}{y}", "{m} the {o}{c}{y}"]
FORMS = {
    "day first": [*DAY_FIRST, "{d} {m}{c}{y}", "{d} {m} {y}"],
    "month first": [*MONTH_FIRST, "{m} {d}{c}{y}", "{m} {d}, {y}", "{m} {n}, {y}"],
    "in the year": [
        "the {o} of {m} in the year {y}",
        "the {o} day of {m} in the year {y}",
        "the {o} day of {m}{c}{y}",
        "{m} the {o} in the year of our Lord {y}",
    ],
    "year first": [
        "{y}, {m} {d}",
        "{y} {m} {d}",
        "{y}, the {o} of {m}",
        "in {y}, on the {o} of {m}",
        "in the year {y}, on {m} {o}",
        "in {m} {y}, on the {o}",
    ],
}


def cardinal(n, hyphen="-"):
    """Return a number from 1 to 99 in words."""
    if n < 20:
        return BELOW_TWENTY[n]
    return TENS[n // 10] + (hyphen + BELOW_TWENTY[n % 10] if n % 10 else "")


def ordinal(n, hyphen="-"):
    """Return "third" for 3, "twenty-first" for 21."""
    head, _, last = cardinal(n).rpartition("-")
    last = IRREGULAR.get(last, last + "th")
    return head + hyphen + last if head else last


def ordinal_digits(n):
    """Return "3rd" for 3."""
    return f"{n}{'th' if 10 < n < 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def year_in_words(year, hyphen, rng):
    """Return one of the ways to say a year from 1000 to 2999."""
    century, rest = divmod(year, 100)
    link = rng.choice([" and ", " "])
    way = rng.choice(["pairs", "pairs", "hundreds", "thousands"])
    if way == "pairs":
        tail = cardinal(rest, hyphen) if rest > 9 else f"{rng.choice(['oh', 'o'])} {cardinal(rest)}"
        return f"{cardinal(century, hyphen)} {tail if rest else 'hundred'}"
    if way == "hundreds":
        words = f"{cardinal(century, hyphen)} hundred"
    else:
        words = f"{cardinal(century // 10)} thousand"
        words += f" {cardinal(century % 10)} hundred" if century % 10 else ""
    return words + (link + cardinal(rest, hyphen) if rest else "")


def abbreviated(name, rng):
    """Return a short form of a month or weekday, with or without a full stop."""
    if name == "May":
        return name
    short = {"September": ["Sep", "Sept"], "Tuesday": ["Tue", "Tues"], "Thursday": ["Thu", "Thurs"]}
    return rng.choice(short.get(name, [name[:3]])) + rng.choice(["", "."])


def write(day, rng):
    """Return a date in one of its forms, and what the form is."""
    order = rng.choice(list(FORMS))
    pattern = rng.choice(FORMS[order])
    hyphen = rng.choice(["-", "-", "-", " "])
    month, short = MONTHS[day.month - 1], rng.random() < 0.3
    in_words, year_words = rng.random() < 0.5, rng.random() < 0.5
    text = pattern.format(
        o=ordinal(day.day, hyphen) if in_words else ordinal_digits(day.day),
        d=f"{day.day:02}" if rng.random() < 0.15 else day.day,
        n=cardinal(day.day, hyphen),
        m=abbreviated(month, rng) if short else month,
        y=year_in_words(day.year, hyphen, rng) if year_words else day.year,
        c=rng.choice([", ", " "]),
    )
    weekday = order != "year first" and rng.random() < 0.25
    if weekday:
        name = WEEKDAYS[day.weekday()]
        name = abbreviated(name, rng) if rng.random() < 0.3 else name
        text = name + rng.choice([", ", " "]) + text
    if not text.startswith("in ") and rng.random() < 0.25:
        text = "on " + text
    text += rng.choice(["", "", "", "."])
    case = rng.choice(["as usual", "as usual", "lower", "upper"])
    text = {"as usual": text, "lower": text.lower(), "upper": text.upper()}[case]
    kind = "words" if "{n}" in pattern or ("{o}" in pattern and in_words) else "digits"
    form = [order, f"day in {kind}", f"year in {'words' if year_words else 'digits'}"]
    form += ["month short" if short else "month in full", f"case {case}"]
    return text, "; ".join([*form, "weekday" if weekday else "no weekday"])


def learn_tokenizer(texts, out):
    """Save vocab.json and merges.txt of a byte-level BPE whose merges hold no digit."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.model.save(str(out))


def main():
    """Write the files."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    rng.shuffle(days)
    rows = [(text, day.isoformat(), form) for day in days for text, form in [write(day, rng)]]
    meaning = {}
    for text, digits, _ in rows:
        assert meaning.setdefault(text.lower(), digits) == digits, f"ambiguous: {text}"
    for name, part in ("heldout", rows[:HELD_OUT]), ("train", rows[HELD_OUT:]):
        lines = ("\t".join(row) + "\n" for row in part)
        (out / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        print(name, len(part))
    learn_tokenizer((text for text, *_ in rows[HELD_OUT:]), out)


if __name__ == "__main__":
    main()
