// The words of the page. The scripts have them in English; for another language the page has a table.

const words = data.words;

// A text with values in the places of {0}, {1}, …: numbers, texts, elements, or arrays of these.
function mixed(text, ...values) {
  const parts = (words[text] ?? text).split(/\{(\d)\}/).map((part, i) => (i % 2 ? values[part] : part));
  return parts.flat(Infinity).filter((part) => part !== "");
}

// The same without elements, as a string.
const t = (text, ...values) => mixed(text, ...values).join("");

// A number of things: `one` and `many` are texts with {0}. A table has `many` alone, with a text, or with one for
// each of the plurals of its language, as Intl.PluralRules calls them.
const plurals = new Intl.PluralRules(document.documentElement.lang);
function plural(n, one, many) {
  const found = words[many] ?? { one, other: many };
  const text = typeof found === "string" ? found : found[plurals.select(n)] ?? found.other;
  return text.replace("{0}", whole(n));
}

const listed = (values) => [...values].sort((a, b) => a - b).join(t(", "));
const layersNamed = (layers) => (layers.length === 1 ? t("layer {0}", layers[0]) : t("layers {0}", listed(layers)));
const headsNamed = (heads) => (heads.length === 1 ? t("head {0}", heads[0]) : t("heads {0}", listed(heads)));
