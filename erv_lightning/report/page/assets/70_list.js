// The list of groups: only the rows in view are elements, so that 100,000 groups scroll like ten.

const ROW = 62; // px, the same as --row in page.css: positions are computed, never measured
const SPARE = 6; // rows kept above and below the view
const MARKS = 10; // completions drawn one by one; larger groups are counted

/** The list's behaviour. `open(group, {focus})` shows a group's detail. */
function makeList(app, open) {
  const box = byId("list");
  const sizer = el("div", { role: "presentation", class: "sizer" });
  box.append(sizer);
  const list = { box, sizer, shown: new Map(), active: 0, open };
  let planned = false;
  box.addEventListener("scroll", () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => { planned = false; drawRows(app, list); });
  });
  new ResizeObserver(() => drawRows(app, list)).observe(box);
  box.addEventListener("click", (event) => {
    const row = event.target.closest("[data-place]");
    if (!row) return;
    activate(app, list, Number(row.dataset.place));
    open(app.found.groups[list.active], { focus: false });
  });
  return list;
}

/** Shows the groups that passed the filters; the opened one stays active where it is among them. */
function showGroups(app, list) {
  const { groups, rows } = app.found;
  list.sizer.replaceChildren();
  list.shown.clear();
  list.sizer.style.setProperty("height", `${groups.length * ROW}px`);
  list.active = Math.max(0, app.open === null ? 0 : groups.indexOf(app.open));
  list.box.scrollTop = 0;
  byId("found").textContent = foundWords(app, groups, rows);
  if (!groups.length) {
    list.sizer.append(el("p", { class: "empty", role: "presentation" }, emptyWords(app)));
    list.box.removeAttribute("aria-activedescendant");
    return;
  }
  if (list.active) keepInView(list, list.active);
  drawRows(app, list);
}

function foundWords(app, groups, rows) {
  const all = app.index.rows.n;
  const words = plural(all, "response");
  return `${plural(groups.length, "group")}, ${rows === all ? words : `${rows.toLocaleString("en")} of ${words}`}`;
}

function emptyWords(app) {
  if (app.index.rows.n) return "No response passes these filters. Remove one of them above.";
  return "There are no responses in this report.";
}

function drawRows(app, list) {
  const { groups } = app.found;
  if (!groups.length) return;
  const first = Math.max(0, Math.floor(list.box.scrollTop / ROW) - SPARE);
  const last = Math.min(groups.length - 1, Math.ceil((list.box.scrollTop + list.box.clientHeight) / ROW) + SPARE);
  for (const [place, row] of list.shown) {
    if (place >= first && place <= last) continue;
    row.remove();
    list.shown.delete(place);
  }
  for (let place = first; place <= last; place++) {
    if (!list.shown.has(place)) list.shown.set(place, makeListRow(app, place));
    markRow(app, list, place);
  }
  // In the order of the list, as a screen reader walks it. Elements already in place do not move.
  let before = null;
  for (let place = first; place <= last; place++) {
    const row = list.shown.get(place);
    const next = before ? before.nextSibling : list.sizer.firstChild;
    if (next !== row) list.sizer.insertBefore(row, next);
    before = row;
  }
  list.box.setAttribute("aria-activedescendant", `row-${list.active}`);
}

function markRow(app, list, place) {
  const row = list.shown.get(place);
  row.setAttribute("aria-selected", String(app.found.groups[place] === app.open));
  row.classList.toggle("active", place === list.active);
}

function makeListRow(app, place) {
  const { payload, index, found } = app;
  const { groups } = index;
  const g = found.groups[place];
  const sample = payload.samples[groups.sample[g]];
  const run = payload.runs[groups.run[g]];
  const label = labelOf(payload, sample.space, sample.label);
  const position = { "data-place": place, "aria-posinset": place + 1, "aria-setsize": found.groups.length };
  const row = el("div", { role: "option", class: "row", id: `row-${place}`, ...position, "aria-label": groupWords(app, g) });
  row.style.setProperty("top", `${place * ROW}px`);
  row.append(
    span("when", dot(payload.arms[run.arm]?.colour, "dot square"), whenOf(groups, g)),
    span("who", sample.id, span("run muted", index.shortNames[groups.run[g]])),
    span("label", dot(label.colour), label.name),
    cellMarks(groups, g),
    span("reward", ...rewardWords(app, g)),
  );
  return row;
}

function whenOf(groups, g) {
  return groups.kind[g] === PREDICTION ? "test" : `step ${groups.step[g]}`;
}

/** The cells of a group's completions as marks, the faithful first. */
function cellMarks(groups, g) {
  const holder = el("span", { class: "marks" });
  const size = groups.start[g + 1] - groups.start[g];
  for (let cell = 0; cell < 4; cell++) {
    const count = groups.cells[4 * g + cell];
    if (size <= MARKS) for (let i = 0; i < count; i++) holder.append(mark(cell));
    else if (count) holder.append(mark(cell), span("many", String(count)));
  }
  return holder;
}

function rewardWords(app, g) {
  const { groups, rows } = app.index;
  if (groups.kind[g] === PREDICTION) {
    const answer = app.payload.answers[app.payload.rows.answer[rows.source[groups.start[g]]]];
    return ["→ ", said(answer ? answer.slice(0, 40) : "no answer")];
  }
  const [mean, spread] = [groups.reward[g], groups.spread[g]].map((value) => number(value, { decimals: 2 }));
  return [mean, span("muted", ` ± ${spread}`)];
}

/** The row in words, for those who hear it. */
function groupWords(app, g) {
  const { payload, index: { groups } } = app;
  const sample = payload.samples[groups.sample[g]];
  const cells = CELLS.map(({ name }, cell) => `${groups.cells[4 * g + cell]} ${name}`).filter((words) => !words.startsWith("0 "));
  const label = labelOf(payload, sample.space, sample.label).name;
  const reward = Number.isNaN(groups.reward[g]) ? "" : `, mean reward ${number(groups.reward[g])}`;
  const run = payload.runs[groups.run[g]].name;
  return `${whenOf(groups, g)}, clip ${sample.id}, label ${label}, ${cells.join(", ")}${reward}, run ${run}`;
}

// -- moving in it -----------------------------------------------------------------------------------------------------

function activate(app, list, place) {
  const last = app.found.groups.length - 1;
  if (last < 0) return;
  const before = list.active;
  list.active = Math.min(last, Math.max(0, place));
  keepInView(list, list.active);
  drawRows(app, list);
  if (list.shown.has(before)) markRow(app, list, before);
}

function keepInView(list, place) {
  const top = place * ROW;
  if (top < list.box.scrollTop) list.box.scrollTop = top;
  else if (top + ROW > list.box.scrollTop + list.box.clientHeight) list.box.scrollTop = top + ROW - list.box.clientHeight;
}

/** Brings marks up to date after another group was opened, here or from the detail. */
function showOpened(app, list) {
  const place = app.open === null ? -1 : app.found.groups.indexOf(app.open);
  if (place >= 0) activate(app, list, place);
  for (const shown of list.shown.keys()) markRow(app, list, shown);
}
