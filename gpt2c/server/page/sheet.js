// The field to type into, and under it a mirror that shows what a field cannot: colours, and text that is not there yet.

function makeSheet({ changed, moved }) {
  const field = byId("text");
  const mirror = byId("mirror");
  const frame = byId("sheet");
  let text = field.value;
  let marks = []; // { start, end, v, … } in order, coloured by v
  let pieces = []; // their elements
  let ghost = "";
  let coming = "";
  let composing = false;
  let active = null;

  function draw() {
    const nodes = [];
    let end = 0;
    pieces = marks.map((mark) => {
      const piece = make("span", { class: "piece", "--v": mark.v.toFixed(4) }, text.slice(mark.start, mark.end));
      piece.classList.toggle("active", mark === active);
      nodes.push(text.slice(end, mark.start), piece);
      end = mark.end;
      return piece;
    });
    nodes.push(text.slice(end));
    // A line may end here, so that nothing of the text moves; and a line break at the end makes a line.
    nodes.push("\u200b");
    if (coming) nodes.push(make("span", { class: "coming" }, coming));
    else if (ghost) nodes.push(make("span", { class: "ghost" }, ghost));
    mirror.replaceChildren(...nodes);
  }

  const atEnd = () => field.selectionStart === text.length && field.selectionEnd === text.length;

  function propose(offered) {
    ghost = atEnd() && !composing && !field.readOnly ? offered : "";
    draw();
    return ghost;
  }

  // As if it were typed, so that the browser's undo takes it back; the focus stays where it was.
  function insert(added, start = field.selectionStart, end = field.selectionEnd) {
    if (!added) return;
    const before = document.activeElement;
    field.focus({ preventScroll: true });
    field.setSelectionRange(start, end);
    if (!document.execCommand("insertText", false, added)) {
      field.setRangeText(added, start, end, "end");
      field.dispatchEvent(new Event("input"));
    }
    if (before !== field && before !== document.body) before.focus({ preventScroll: true });
  }

  field.addEventListener("input", () => {
    const old = text;
    text = field.value;
    const typed = text.startsWith(old) ? text.slice(old.length) : null;
    // Who types what is offered keeps the rest of the offer.
    ghost = typed && ghost.startsWith(typed) && atEnd() ? ghost.slice(typed.length) : "";
    let same = 0;
    while (same < old.length && old[same] === text[same]) same++;
    marks = marks.filter((mark) => mark.end <= same);
    draw();
    if (!composing) changed();
  });

  field.addEventListener("compositionstart", () => {
    composing = true;
    propose("");
  });
  field.addEventListener("compositionend", () => {
    composing = false;
    changed();
  });

  field.addEventListener("keydown", (event) => {
    if (!ghost || composing || event.isComposing) return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const line = make("p", { dir: "auto" }, text.slice(text.lastIndexOf("\n") + 1));
    const forward = line.matches(":dir(rtl)") ? "ArrowLeft" : "ArrowRight";
    if (![forward, "Tab", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") propose("");
    else insert(ghost);
  });

  // The field lies above the mirror and gets all events: what is under the pointer is found by its place.
  const under = (event, element) =>
    [...element.getClientRects()].some(
      (box) => event.clientX >= box.left && event.clientX < box.right && event.clientY >= box.top && event.clientY < box.bottom
    );
  const overGhost = (event) => ghost && under(event, mirror.querySelector(".ghost"));
  field.addEventListener("click", (event) => {
    if (overGhost(event)) insert(ghost, text.length, text.length);
  });
  field.addEventListener("pointermove", (event) => {
    field.classList.toggle("over-ghost", Boolean(overGhost(event)));
    const found = pieces.findIndex((piece) => under(event, piece));
    if (found >= 0) point(marks[found]);
  });
  document.addEventListener("selectionchange", () => {
    if (document.activeElement !== field) return;
    if (ghost && !atEnd()) propose("");
    const at = Math.max(1, field.selectionStart);
    point(marks.find((mark) => mark.start < at && at <= mark.end) ?? null);
    moved();
  });

  function point(mark) {
    if (mark === active) return;
    active = mark;
    pieces.forEach((piece, index) => piece.classList.toggle("active", marks[index] === mark));
    sheet.pointed(mark);
  }

  const sheet = {
    pointed: () => {},
    text: () => text,
    before: () => text.slice(0, field.selectionStart),
    atEnd,
    propose,
    insert,
    // Colours of a text, unless it has changed since.
    colour(of, found) {
      if (of !== text) return;
      marks = found;
      draw();
      const at = field.selectionStart;
      active = undefined;
      point(marks.find((mark) => mark.start < at && at <= mark.end) ?? null);
    },
    // Text that comes in parts; nobody can type until it is complete, and undone it is as one.
    arrive(part) {
      field.readOnly = true;
      ghost = "";
      const low = frame.scrollHeight - frame.scrollTop - frame.clientHeight < 60;
      coming += part;
      draw();
      if (low) frame.scrollTop = frame.scrollHeight;
    },
    settle() {
      const whole = coming;
      coming = "";
      field.readOnly = false;
      draw();
      insert(whole, text.length, text.length);
    },
  };
  draw();
  return sheet;
}
