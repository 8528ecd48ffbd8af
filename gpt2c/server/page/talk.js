// Talking to the server. Whatever goes wrong is an Error whose message can be shown.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const STORED = "gpt2c-api-key";
let key = "";
try {
  key = sessionStorage.getItem(STORED) ?? "";
} catch {
  // Storage is forbidden here: the key lives as long as the page.
}

function useKey(given) {
  if (!/^[!-~]*$/.test(given)) throw new Error("An API key has only letters, digits and signs of ASCII, without spaces.");
  key = given;
  try {
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
  } catch {
    // As above.
  }
}

// Half of a surrogate pair, as some keyboards leave between two events, is not a character that can be sent.
const sendable = (text) => text.toWellFormed?.() ?? text;

async function post(path, body, signal) {
  if (data.key && !key) throw new Error("This server wants an API key: give it above.");
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    signal.throwIfAborted();
    throw new Error("The server does not answer. Is it still running?", { cause: error });
  }
  if (!response.ok) throw new Error(await complaint(response));
  return response;
}

async function complaint(response) {
  if (response.status === 401) return "The server does not know this API key.";
  if (response.status === 429) return "The server is busy. Try again in a moment.";
  let said = "";
  try {
    said = (await response.json()).error.message;
  } catch {
    // Not the server itself answers, but something before it.
  }
  return said ? said[0].toUpperCase() + said.slice(1) : `The answer is ${response.status} ${response.statusText}.`;
}

const answer = async (path, body, signal) => (await post(path, body, signal)).json();

// The events of a streamed answer.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      if (done) throw new Error("The connection broke off before the text was complete.");
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const told = part.replace(/^data: /, "");
        if (told === "[DONE]") return;
        const event = JSON.parse(told);
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// A job of which only the latest run counts: it begins after a pause, and a new one aborts it.
function latest(pause, job, failed) {
  let controller = new AbortController();
  let timer = 0;
  const stop = () => {
    clearTimeout(timer);
    controller.abort();
  };
  const start = (...given) => {
    stop();
    controller = new AbortController();
    const { signal } = controller;
    timer = setTimeout(() => job(signal, ...given).catch((error) => signal.aborted || failed(error)), pause);
  };
  return { start, stop };
}
