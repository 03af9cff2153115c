// The rows as typed arrays, in groups. Made once; filters and the list only read it.
// A row is one response. A group is the G completions of one clip at one step of one run, or one test prediction.

const ROLLOUT = 0;
const PREDICTION = 1;
const CELLS = [
  { key: "right-coherent", name: "right, coherent" },
  { key: "right-incoherent", name: "right, incoherent" },
  { key: "wrong-coherent", name: "wrong, coherent" },
  { key: "wrong-incoherent", name: "wrong, incoherent" },
];

/** Rows and groups of the payload. Row numbers below are places in this order, by kind, run, step, sample, completion. */
function makeIndex(payload) {
  const order = rowOrder(payload.rows);
  const rows = makeRows(payload, order);
  const groups = makeGroups(rows);
  const labels = labelNames(payload);
  return {
    rows,
    groups,
    labels,
    ofLabel: labelOfSample(payload, labels),
    bySample: groupsBySample(groups, payload.samples.length),
    shortNames: shortNames(payload.runs.map((run) => run.name)),
    orders: new Map(),
  };
}

/** The last part of each run's path where that tells the runs apart: rows of the list are narrow. */
function shortNames(names) {
  const short = names.map((name) => name.split("/").at(-1));
  return new Set(short).size === names.length ? short : names;
}

function largest(values) {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

function rowOrder(rows) {
  const n = rows.kind.length;
  const steps = ranks(rows.step);
  const runs = largest(rows.run) + 1;
  const samples = largest(rows.sample) + 1;
  const completions = largest(rows.completion) + 1;
  const key = new Float64Array(n); // one number per row: exact, since the product of the ranges is far below 2^53
  for (let i = 0; i < n; i++) {
    const place = (rows.kind[i] * runs + rows.run[i]) * steps.size + steps.get(rows.step[i]);
    key[i] = (place * samples + rows.sample[i]) * completions + rows.completion[i];
  }
  return Uint32Array.from(key.keys()).sort((a, b) => key[a] - key[b]);
}

function ranks(values) {
  return new Map([...new Set(values)].sort((a, b) => a - b).map((value, rank) => [value, rank]));
}

function makeRows(payload, order) {
  const from = payload.rows;
  const n = order.length;
  const column = (Kind, values) => Kind.from(order, (row) => values[row] ?? NaN);
  const rows = {
    n,
    source: order, // place in the payload's columns
    kind: column(Uint8Array, from.kind),
    run: column(Uint16Array, from.run),
    step: column(Int32Array, from.step),
    sample: column(Uint32Array, from.sample),
    answer: column(Int16Array, from.answer_id),
    reward: column(Float64Array, from.reward),
    cell: new Uint8Array(n),
    group: new Uint32Array(n),
  };
  const read = payload.judges.length ? from.judged[0] : null;
  for (let i = 0; i < n; i++) {
    const answer = rows.answer[i];
    const wrong = !(answer >= 0 && answer === payload.samples[rows.sample[i]].label);
    const incoherent = !(read && answer >= 0 && read[order[i]] === answer);
    rows.cell[i] = 2 * wrong + incoherent;
  }
  return rows;
}

function makeGroups(rows) {
  const starts = [];
  for (let i = 0; i < rows.n; i++) {
    const same = i > 0 && ["sample", "step", "run", "kind"].every((name) => rows[name][i] === rows[name][i - 1]);
    if (!same) starts.push(i);
    rows.group[i] = starts.length - 1;
  }
  const n = starts.length;
  const pick = (Kind, name) => Kind.from(starts, (row) => rows[name][row]);
  const groups = {
    n,
    start: Uint32Array.from([...starts, rows.n]), // rows start[g] … start[g + 1] − 1
    kind: pick(Uint8Array, "kind"),
    run: pick(Uint16Array, "run"),
    step: pick(Int32Array, "step"),
    sample: pick(Uint32Array, "sample"),
    reward: new Float64Array(n), // mean; NaN where there is none
    spread: new Float64Array(n), // standard deviation over the group
    disagreement: new Float64Array(n), // share of completions whose answer is not the group's commonest
    cells: new Uint16Array(4 * n), // completions in each of the four cells
  };
  for (let g = 0; g < n; g++) describeGroup(rows, groups, g);
  return groups;
}

function describeGroup(rows, groups, g) {
  let sum = 0;
  let squares = 0;
  let rewarded = 0;
  const answers = new Map();
  const size = groups.start[g + 1] - groups.start[g];
  for (let i = groups.start[g]; i < groups.start[g + 1]; i++) {
    groups.cells[4 * g + rows.cell[i]]++;
    answers.set(rows.answer[i], (answers.get(rows.answer[i]) ?? 0) + 1);
    if (Number.isNaN(rows.reward[i])) continue;
    rewarded++;
    sum += rows.reward[i];
    squares += rows.reward[i] ** 2;
  }
  groups.reward[g] = rewarded ? sum / rewarded : NaN;
  groups.spread[g] = rewarded ? Math.sqrt(Math.max(0, squares / rewarded - groups.reward[g] ** 2)) : NaN;
  groups.disagreement[g] = 1 - Math.max(...answers.values()) / size;
}

// -- labels -----------------------------------------------------------------------------------------------------------

/** The names of all label spaces, each once, in the order of the spaces. */
function labelNames(payload) {
  return [...new Set(payload.samples.map((sample) => sample.space))]
    .flatMap((space) => payload.spaces[space].names)
    .filter((name, place, all) => all.indexOf(name) === place);
}

function labelOfSample(payload, labels) {
  const place = new Map(labels.map((name, index) => [name, index]));
  return Int16Array.from(payload.samples, (sample) => place.get(payload.spaces[sample.space].names[sample.label]) ?? -1);
}

/** Name and colour of a label id in a space; −1 is no label. */
function labelOf(payload, space, id) {
  const known = payload.spaces[space];
  return known && id >= 0 ? { name: known.names[id], colour: known.colours[id] } : { name: "none", colour: "transparent" };
}

// -- the same clip elsewhere, and orders of the list ------------------------------------------------------------------

/** For each sample its groups, in the groups' order: {start, groups}, as compressed rows of a sparse matrix. */
function groupsBySample(groups, samples) {
  const start = new Uint32Array(samples + 1);
  for (const sample of groups.sample) start[sample + 1]++;
  for (let s = 0; s < samples; s++) start[s + 1] += start[s];
  const next = start.slice();
  const placed = new Uint32Array(groups.n);
  for (let g = 0; g < groups.n; g++) placed[next[groups.sample[g]]++] = g;
  return { start, groups: placed };
}

function groupsOfSample(index, sample) {
  return [...index.bySample.groups.subarray(index.bySample.start[sample], index.bySample.start[sample + 1])];
}

const SORTS = {
  step: { name: "step, first to last", key: (groups, g) => groups.step[g] },
  "-step": { name: "step, last to first", key: (groups, g) => -groups.step[g] },
  "-reward": { name: "reward, highest first", key: (groups, g) => -groups.reward[g] },
  reward: { name: "reward, lowest first", key: (groups, g) => groups.reward[g] },
  "-spread": { name: "reward spread, widest first", key: (groups, g) => -groups.spread[g] },
  "-disagreement": { name: "answers disagree, most first", key: (groups, g) => -groups.disagreement[g] },
};

/** All groups in the order that a sort asks for; what has no such number comes last. Computed once for each sort. */
function sorted(index, sort) {
  if (!index.orders.has(sort)) {
    const { groups } = index;
    const last = sort.endsWith("step") ? (g) => groups.kind[g] === PREDICTION : () => false; // a prediction has no step
    const key = Float64Array.from({ length: groups.n }, (_, g) => {
      const value = SORTS[sort].key(groups, g);
      return last(g) || Number.isNaN(value) ? Number.MAX_VALUE : value;
    });
    index.orders.set(sort, Uint32Array.from(key.keys()).sort((a, b) => key[a] - key[b]));
  }
  return index.orders.get(sort);
}
