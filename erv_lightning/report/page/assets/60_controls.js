// The filter panel: built once, then only its counts and marks change.

/** Builds the panel. `changed(change)` is called with a function that changes the filter. */
function makeControls(app, changed) {
  const { payload, index } = app;
  const spaces = Object.values(payload.spaces);
  const labelColour = (name) => spaces.map((space) => space.colours[space.names.indexOf(name)]).find(Boolean) ?? "transparent";
  const runs = payload.runs.map((run, place) => {
    return { name: run.name, short: index.shortNames[place], colour: payload.arms[run.arm]?.colour };
  });
  const facets = [
    { name: "kind", title: "What", options: KINDS.map(({ name }) => ({ name })) },
    { name: "run", title: "Run", options: runs },
    { name: "dataset", title: "Data set", options: payload.datasets.map((name) => ({ name })) },
    { name: "label", title: "Class", options: index.labels.map((name) => ({ name, colour: labelColour(name) })) },
  ];
  app.options = { cell: [] };
  const panel = byId("filters");
  panel.addEventListener("submit", (event) => event.preventDefault());
  panel.append(
    searchBox(app, changed),
    cellGrid(app, changed),
    ...facets.map((facet) => facetBox(app, facet, changed)),
    rangeBox(app, "step", "Step", changed),
    rangeBox(app, "reward", "Reward", changed),
    remark("Counts are single responses."),
  );
  const sort = byId("sort");
  sort.append(...Object.entries(SORTS).map(([value, { name }]) => el("option", { value }, name)));
  const toggle = byId("show-filters");
  toggle.addEventListener("click", () => toggle.setAttribute("aria-expanded", String(panel.classList.toggle("shown"))));
}

function searchBox(app, changed) {
  const input = el("input", { type: "search", id: "search", placeholder: "Words, or a clip’s id", spellcheck: "false" });
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => changed((filter) => Object.assign(filter, { text: input.value })), 120);
  });
  app.searchInput = input;
  return el("div", { class: "facet" }, el("label", { for: "search" }, "Search"), input);
}

/** Right or wrong × coherent or not, as four buttons that count. */
function cellGrid(app, changed) {
  const judge = app.payload.judges[0];
  const buttons = CELLS.map((cell, value) => {
    const count = el("span", { class: "count" });
    const button = el("button", { type: "button", class: "cell", "aria-pressed": "false", title: cell.name });
    button.append(mark(value), count);
    button.addEventListener("click", () => changed((filter) => flip(filter.cell, value)));
    app.options.cell.push({ button, count });
    return button;
  });
  const head = (words) => el("span", { class: "muted", "aria-hidden": "true" }, words); // each button says both words itself
  const grid = el("div", { class: "cells" }, head(""), head("coherent"), head("not"));
  grid.append(head("right"), buttons[0], buttons[1], head("wrong"), buttons[2], buttons[3]);
  const how = judge
    ? `Right: the answer is the label. Coherent: ${judge} reads the answer’s emotion in the explanation.`
    : "No judge has read these explanations, so none counts as coherent.";
  return el("fieldset", { class: "facet" }, el("legend", {}, "Answer and explanation"), grid, remark(how));
}

/** The mark of one of the four cells: shape and colour both tell it. */
function mark(cell) {
  return el("span", { class: `mark mark-${cell}`, "aria-hidden": "true" });
}

function flip(set, value) {
  if (!set.delete(value)) set.add(value);
}

function facetBox(app, { name, title, options }, changed) {
  const made = options.map((option, value) => {
    const input = el("input", { type: "checkbox", name, value: option.name });
    input.addEventListener("change", () => changed((filter) => flip(filter[name], value)));
    const count = el("span", { class: "count" });
    const words = el("span", { class: "name", title: option.name }, option.short ?? option.name);
    const row = el("label", { class: "option" }, input, option.colour ? dot(option.colour) : null, words, count);
    return { input, count, row };
  });
  app.options[name] = made;
  const alone = options.length < 2; // nothing to choose from
  const list = el("div", { class: "options" }, ...made.map((one) => one.row));
  return el("fieldset", { class: "facet", hidden: alone }, el("legend", {}, title), list);
}

function rangeBox(app, name, title, changed) {
  const inputs = ["from", "to"].map((word, end) => {
    const input = el("input", { type: "number", step: "any", "aria-label": `${title} ${word}`, placeholder: word });
    input.addEventListener("input", () => changed((filter) => {
      filter[name][end] = input.value === "" ? null : Number(input.value);
    }));
    return input;
  });
  app.options[name] = inputs;
  const extent = extentOf(app.index.rows, name);
  const [low, high] = extent ?? [];
  if (extent) inputs.forEach((input, end) => { input.placeholder = number(extent[end]); });
  const words = extent ? `${title} (${number(low)} to ${number(high)})` : title;
  const range = el("div", { class: "range" }, inputs[0], span("muted", "to"), inputs[1]);
  return el("fieldset", { class: "facet", hidden: !extent }, el("legend", {}, words), range);
}

function extentOf(rows, name) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < rows.n; i++) {
    const value = name === "step" && rows.kind[i] === PREDICTION ? NaN : rows[name][i];
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** Brings every control in line with the filter and its counts. */
function showControls(app, changed) {
  const { filter, found } = app;
  for (const [name, options] of Object.entries(app.options)) {
    if (name === "step" || name === "reward") {
      options.forEach((input, end) => {
        if (input !== document.activeElement) input.value = filter[name][end] ?? ""; // not while it is being written in
      });
      continue;
    }
    options.forEach((option, value) => {
      showOption(option, name, value, filter[name].has(value), found.counts[name][value]);
    });
  }
  if (app.searchInput !== document.activeElement) app.searchInput.value = filter.text;
  byId("sort").value = app.sort;
  showChips(app, changed);
}

function showOption(option, name, value, on, count) {
  option.count.textContent = count.toLocaleString("en");
  if (name === "cell") {
    option.button.setAttribute("aria-pressed", String(on));
    option.button.setAttribute("aria-label", `${CELLS[value].name}: ${plural(count, "response")}`);
    option.button.classList.toggle("none", count === 0);
    return;
  }
  option.input.checked = on;
  option.row.classList.toggle("none", count === 0 && !on);
}

// -- what is filtered, in one line ------------------------------------------------------------------------------------

function showChips(app, changed) {
  const chips = [];
  const chip = (words, change) => {
    const button = el("button", { type: "button", class: "chip", "aria-label": `Remove filter ${words}` }, words);
    button.append(el("span", { "aria-hidden": "true" }, "×"));
    button.addEventListener("click", () => changed(change));
    chips.push(button);
  };
  const keys = { ...choices(app), kind: KINDS.map((kind) => kind.name), cell: CELLS.map((cell) => cell.name) };
  for (const [name, names] of Object.entries(keys)) {
    for (const value of app.filter[name]) chip(names[value], (filter) => filter[name].delete(value));
  }
  for (const name of ["step", "reward"]) {
    if (!isFiltered(app.filter, name)) continue;
    const [low, high] = app.filter[name];
    const words = low === null ? `at most ${high}` : high === null ? `at least ${low}` : `${low} to ${high}`;
    chip(`${name} ${words}`, (filter) => { filter[name] = [null, null]; });
  }
  if (app.filter.text) chip(`“${app.filter.text.slice(0, 40)}”`, (filter) => { filter.text = ""; });
  byId("show-filters").textContent = chips.length ? `Filters (${chips.length})` : "Filters";
  if (chips.length) {
    const clear = el("button", { type: "button", class: "chip clear", id: "clear" }, "Clear all");
    clear.addEventListener("click", () => changed((filter) => Object.assign(filter, noFilter())));
    chips.push(clear);
  }
  const holder = byId("chips");
  const focused = holder.contains(document.activeElement);
  holder.replaceChildren(...chips);
  if (focused) (chips.at(-1) ?? byId("list")).focus(); // the chip that was pressed is gone: stay near it
}
