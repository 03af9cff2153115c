// Which rows are wanted: the state of the filters, what it lets through with counts, and its form in the address.

const KINDS = [{ key: "rollouts", name: "Rollouts" }, { key: "tests", name: "Test predictions" }];
const BIT = { kind: 1, run: 2, dataset: 4, label: 8, cell: 16, step: 32, reward: 64, text: 128 };

/** No filter: empty sets and nulls let everything through. */
function noFilter() {
  const sets = { kind: new Set(), run: new Set(), dataset: new Set(), label: new Set(), cell: new Set() };
  return { ...sets, step: [null, null], reward: [null, null], text: "" };
}

function isFiltered(filter, name) {
  const value = filter[name];
  return value instanceof Set ? value.size > 0 : Array.isArray(value) ? value.some((end) => end !== null) : value !== "";
}

/** Applies a filter: {groups, rows, counts, fails}. `counts` say how many rows each choice would leave. */
function applyFilter(app, filter, sort) {
  const { index, payload } = app;
  const fails = failures(app, filter);
  const counts = {
    kind: new Uint32Array(KINDS.length),
    run: new Uint32Array(payload.runs.length),
    dataset: new Uint32Array(payload.datasets.length),
    label: new Uint32Array(index.labels.length),
    cell: new Uint32Array(CELLS.length),
  };
  const passing = new Uint16Array(index.groups.n); // rows of each group that pass
  let passed = 0;
  const { rows, ofLabel } = index;
  for (let i = 0; i < rows.n; i++) {
    const failed = fails[i];
    if (failed === 0) {
      passing[rows.group[i]]++;
      passed++;
    }
    // A choice within a facet is counted with that facet's own filter left aside: what a click would show.
    const label = ofLabel[rows.sample[i]];
    if ((failed & ~BIT.kind) === 0) counts.kind[rows.kind[i]]++;
    if ((failed & ~BIT.run) === 0) counts.run[rows.run[i]]++;
    if ((failed & ~BIT.dataset) === 0) counts.dataset[payload.samples[rows.sample[i]].dataset]++;
    if ((failed & ~BIT.label) === 0 && label >= 0) counts.label[label]++;
    if ((failed & ~BIT.cell) === 0) counts.cell[rows.cell[i]]++;
  }
  return { groups: sorted(index, sort).filter((g) => passing[g] > 0), rows: passed, counts, fails };
}

/** For each row the bits of the filters that it fails. */
function failures(app, filter) {
  const { rows, ofLabel } = app.index;
  const dataset = (i) => app.payload.samples[rows.sample[i]].dataset;
  const tests = [
    ["kind", chosen(filter.kind, (i) => rows.kind[i])],
    ["run", chosen(filter.run, (i) => rows.run[i])],
    ["dataset", chosen(filter.dataset, dataset)],
    ["label", chosen(filter.label, (i) => ofLabel[rows.sample[i]])],
    ["cell", chosen(filter.cell, (i) => rows.cell[i])],
    ["step", within(filter.step, (i) => (rows.kind[i] === PREDICTION ? NaN : rows.step[i]))],
    ["reward", within(filter.reward, (i) => rows.reward[i])],
    ["text", filter.text.trim() ? containing(app, filter.text) : null],
  ];
  const fails = new Uint8Array(rows.n);
  for (const [name, passes] of tests) {
    if (!passes) continue;
    for (let i = 0; i < rows.n; i++) if (!passes(i)) fails[i] |= BIT[name];
  }
  return fails;
}

function chosen(set, value) {
  return set.size ? (i) => set.has(value(i)) : null;
}

function within([low, high], value) {
  // A row without the number compares false, so it is left out as soon as one end is set.
  return low === null && high === null ? null : (i) => value(i) >= (low ?? -Infinity) && value(i) <= (high ?? Infinity);
}

/** Whether a row's response, or the id of its clip, contains a text. Each distinct response is searched once. */
function containing(app, text) {
  const wanted = text.trim().toLowerCase();
  const { payload, index } = app;
  const search = searchable(app);
  const find = (texts) => Uint8Array.from(texts, (one) => (one.includes(wanted) ? 1 : 0));
  const texts = find(search.texts);
  const explanations = find(search.explanations);
  const samples = find(search.samples);
  const answers = find(search.answers);
  const from = payload.rows;
  return (i) => {
    const row = index.rows.source[i];
    return texts[from.text[row]] || explanations[from.explanation[row]] || samples[from.sample[row]] || answers[from.answer[row]];
  };
}

/** Lower-case texts, made at the first search. An explanation is searched only where a row has no whole response. */
function searchable(app) {
  if (!app.search) {
    const { payload } = app;
    const alone = new Set();
    payload.rows.explanation.forEach((one, row) => {
      if (!payload.texts[payload.rows.text[row]]) alone.add(one);
    });
    app.search = {
      texts: payload.texts.map((text) => text.toLowerCase()),
      explanations: payload.explanations.map((one, place) => (alone.has(place) ? one.text.toLowerCase() : "")),
      samples: payload.samples.map((sample) => sample.id.toLowerCase()),
      answers: payload.answers.map((answer) => answer.toLowerCase()),
    };
  }
  return app.search;
}

// -- the address ------------------------------------------------------------------------------------------------------
// Names, not numbers, stand in it: a link still fits when the report is written again with more runs.

function choices(app) {
  return {
    kind: KINDS.map((kind) => kind.key),
    run: app.payload.runs.map((run) => run.name),
    dataset: app.payload.datasets,
    label: app.index.labels,
    cell: CELLS.map((cell) => cell.key),
  };
}

function toHash(app) {
  const words = new URLSearchParams();
  for (const [name, keys] of Object.entries(choices(app))) for (const one of app.filter[name]) words.append(name, keys[one]);
  for (const name of ["step", "reward"]) {
    if (isFiltered(app.filter, name)) words.set(name, app.filter[name].map((end) => end ?? "").join("…"));
  }
  if (app.filter.text) words.set("text", app.filter.text);
  if (app.sort !== "step") words.set("sort", app.sort);
  if (app.open !== null) {
    const { groups } = app.index;
    const sample = app.payload.samples[groups.sample[app.open]];
    words.set("open", sample.id);
    words.set("of", app.payload.datasets[sample.dataset]);
    words.set("in", app.payload.runs[groups.run[app.open]].name);
    words.set("at", groups.kind[app.open] === PREDICTION ? "test" : groups.step[app.open]);
  }
  return words.toString();
}

/** Filter, sort and opened group that an address tells of; what it names and the report lacks is left out. */
function fromHash(app, hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const filter = noFilter();
  for (const [name, keys] of Object.entries(choices(app))) {
    for (const key of words.getAll(name)) if (keys.includes(key)) filter[name].add(keys.indexOf(key));
  }
  for (const name of ["step", "reward"]) {
    const ends = (words.get(name) ?? "…").split("…");
    filter[name] = [0, 1].map((end) => (ends[end] && Number.isFinite(Number(ends[end])) ? Number(ends[end]) : null));
  }
  filter.text = words.get("text") ?? "";
  return { filter, sort: words.get("sort") in SORTS ? words.get("sort") : "step", open: groupNamed(app, words) };
}

function groupNamed(app, words) {
  const { payload, index } = app;
  const { groups } = index;
  const isNamed = (one) => one.id === words.get("open") && payload.datasets[one.dataset] === words.get("of");
  const sample = payload.samples.findIndex(isNamed);
  const run = payload.runs.findIndex((one) => one.name === words.get("in"));
  if (sample < 0 || run < 0) return null;
  const fits = words.get("at") === "test"
    ? (g) => groups.kind[g] === PREDICTION
    : (g) => groups.kind[g] === ROLLOUT && groups.step[g] === Number(words.get("at"));
  return groupsOfSample(index, sample).find((g) => groups.run[g] === run && fits(g)) ?? null;
}
