// The tokens of the text with their probabilities, and the details of one.

// Where each token stands, in units of JavaScript's strings; those that share a character are one.
function marksOf(text, rows) {
  const places = [0];
  for (const character of text) places.push(places.at(-1) + character.length);
  const marks = [];
  for (const row of rows) {
    if (row.start === null || row.start === row.end) continue;
    const [start, end] = [places[row.start], places[row.end]];
    const last = marks.at(-1);
    if (last && start < last.end) {
      last.rows.push(row);
      last.end = Math.max(last.end, end);
    } else marks.push({ start, end, rows: [row] });
  }
  for (const mark of marks) {
    mark.text = text.slice(mark.start, mark.end);
    mark.logprob = mark.rows.reduce((sum, row) => sum + row.logprob, 0);
    mark.v = Math.min(1, -mark.logprob / Math.log(data.vocabulary));
  }
  return marks;
}

const shownToken = (text) => make("bdi", { class: "token" }, ...visible(text));

function tellOf(mark) {
  if (!mark) return [make("p", { class: "note" }, "Point at a token, or move the cursor behind it.")];
  const [first] = mark.rows;
  const rows = first.top_ids.map((id, i) => ({
    name: shownToken(first.top_texts[i]),
    p: Math.exp(first.top_logprobs[i]),
    kind: id === first.token_id ? "chosen" : "",
  }));
  const several = mark.rows.length > 1 ? ` in ${mark.rows.length} tokens` : "";
  return [
    make("p", {}, shownToken(mark.text), `${several} · probability `, make("b", {}, percent(Math.exp(mark.logprob))),
      " · rank ", make("b", {}, whole(first.rank))),
    bars(rows, several ? "Most probable as the first of them" : "Most probable here"),
  ];
}
