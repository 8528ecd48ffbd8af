// The page: suggestions while someone types, colours, and texts that the model continues.

const TYPING = 120; // milliseconds without a key before something is asked
const READING = 350;
const OFFERS = 5;
const session = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => hexadecimal(byte, 2)).join("");

const say = (id, text) => (byId(id).textContent = text);

// An error is shown until the same work succeeds.
let failing = null;
const failed = (work) => (error) => {
  failing = work;
  say("error", error.message);
};
function succeeded(work) {
  if (failing === work) say("error", "");
}

const sheet = makeSheet({ changed, moved });
const suggestions = latest(TYPING, suggest, failed(suggest));
const scores = latest(READING, score, failed(score));
const form = byId("continue");
let writing = null; // what ends the text that is being written
let asked = null; // the text that suggestions are for

function changed() {
  asked = null;
  moved();
  if (byId("coloured").checked) scores.start(sheet.text());
}

// Suggestions are for the text before the cursor.
function moved() {
  const text = sheet.before();
  if (text === asked || writing) return;
  asked = text;
  if (text) suggestions.start(text);
  else {
    suggestions.stop();
    offer([]);
  }
}

async function suggest(signal, text) {
  const ask = async (kind, options, show) => {
    const found = await answer("/v1/suggest", { prompt: sendable(text), kind, session, ...options }, signal);
    signal.throwIfAborted();
    show(found.data);
  };
  const complete = ([best]) => {
    const shown = sheet.propose(best ? offered(best) : "");
    say("spoken", shown && `Suggested: ${shown}`);
  };
  await Promise.all([
    sheet.atEnd() ? ask("completions", { k: 1, max_tokens: 8 }, complete) : null,
    ask("words", { k: OFFERS + 1 }, offer),
  ]);
  succeeded(suggest);
}

// What is seen of a completion: up to the end of a line, and without a last word that it may end inside of.
function offered({ text, finish_reason }) {
  const line = /^\s*.*/.exec(text)[0];
  const complete = line !== text || finish_reason === "eos" ? line : line.replace(/(\S)\s+\S*$/u, "$1");
  return complete.trim() && complete;
}

function offer(words) {
  const wanted = words.filter((word) => word.text).slice(0, OFFERS);
  // As many buttons whatever there is, so that nothing moves.
  const buttons = Array.from({ length: OFFERS }, (_, i) => {
    const word = wanted[i];
    if (!word) return make("button", { type: "button", disabled: true, "aria-hidden": "true" });
    const take = () => {
      sheet.insert(word.text);
      byId("text").focus();
    };
    const shown = [make("bdi", {}, word.word), make("small", {}, percent(word.probability))];
    return make("button", { type: "button", title: word.word, onclick: take }, shown);
  });
  byId("offers").replaceChildren(...buttons);
}

async function score(signal, text) {
  let rows = [];
  if (text) {
    const body = { input: sendable(text), top: data.top, stride: data.stride };
    rows = (await answer("/v1/score", body, signal)).data[0].tokens;
    signal.throwIfAborted();
  }
  if (rows.length && rows.every((row) => row.start === null)) throw new Error("This tokenizer does not tell where its tokens are.");
  sheet.colour(text, marksOf(text, rows));
  succeeded(score);
}

function switched() {
  const on = byId("coloured").checked;
  byId("scale").replaceChildren(...(on ? [scale("certain", `1 in ${whole(data.vocabulary)}`, "hot")] : []));
  tell(null);
  if (on) scores.start(sheet.text());
  else {
    scores.stop();
    sheet.colour(sheet.text(), []);
  }
}

function tell(mark) {
  byId("details").replaceChildren(...(byId("coloured").checked ? tellOf(mark) : []));
}

// Continuing

function wanted() {
  const fields = new FormData(form);
  const body = { prompt: sendable(sheet.text()), stream: true, stream_options: { include_usage: true }, heal: true };
  for (const name of ["temperature", "top_k", "max_tokens"]) body[name] = Number(fields.get(name));
  if (fields.get("seed")) body.seed = Number(fields.get("seed"));
  return body;
}

async function write() {
  writing = new AbortController();
  const { signal } = writing;
  suggestions.stop();
  offer([]);
  say("error", "");
  say("status", "Writing…");
  byId("write").textContent = "Stop";
  form.noValidate = true; // whatever stands in the fields, it can be stopped
  let text = "";
  const told = { seed: null, reason: "", tokens: null };
  try {
    const body = wanted();
    sheet.arrive("");
    const response = await post("/v1/completions", body, signal);
    for await (const event of eventsOf(response)) {
      told.seed = event.seed;
      if (event.usage) told.tokens = event.usage.completion_tokens;
      for (const choice of event.choices) {
        text += choice.text;
        told.reason = choice.ended_by ?? told.reason;
        sheet.arrive(choice.text);
      }
    }
  } catch (error) {
    if (!signal.aborted) failed(write)(error);
  }
  const stopped = signal.aborted;
  writing = null;
  byId("write").textContent = "Continue";
  form.noValidate = false;
  say("status", ending(told, stopped));
  say("spoken", text);
  sheet.settle();
}

function ending({ seed, reason, tokens }, stopped) {
  const reasons = { eos: "the text has ended", deadline: "the time for a request was over", cancelled: "the server ended it" };
  const parts = stopped ? ["Stopped"] : tokens === null ? [] : [plural(tokens, "{0} token", "{0} tokens"), reasons[reason]];
  if (seed !== null) parts.push(`seed ${seed}`);
  return parts.filter(Boolean).join(" · ");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing) writing.abort();
  else write();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writing) writing.abort();
});

byId("entrance").hidden = !data.key;
byId("key").value = key;
byId("entrance").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    useKey(byId("key").value.trim());
    say("error", "");
    changed();
  } catch (error) {
    failed(useKey)(error);
  }
});

sheet.pointed = tell;
byId("coloured").addEventListener("change", switched);
offer([]);
switched();
changed(); // a browser may have kept the text
document.documentElement.classList.add("ready");
