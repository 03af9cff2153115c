// The opened group: its clip, the same clip at other steps and in other runs. Its completions are in the next file.

/** Shows group `g`. `open(group)` opens another one. */
function showDetail(app, g, open) {
  const holder = byId("detail");
  if (g === null) {
    const choose = "Choose a clip in the list. The keys j and k walk, Enter opens, ? shows all keys.";
    const none = "There are no responses in this report. GRPO writes them while it trains, tests write predictions.";
    holder.replaceChildren(missing(app.index.groups.n ? choose : none));
    return;
  }
  const sample = app.payload.samples[app.index.groups.sample[g]];
  const rows = rowsOf(app, g);
  const elsewhere = el("div", { class: "elsewhere" }, ...makeTimeline(app, g, open), ...makeTests(app, g, open));
  holder.replaceChildren(
    detailHead(app, g, sample),
    el("div", { class: "scene" }, makeScene(app, sample), elsewhere),
    makeLegend(rows.map((row) => row.explanation)),
    ...makeCards(app, g, sample, rows),
  );
  const current = holder.querySelector(".steps [aria-current]"); // scrollIntoView would move the page as well
  if (current) current.parentElement.scrollLeft = current.offsetLeft - current.parentElement.clientWidth / 2;
  holder.scrollTop = 0;
}

/** The clip, and what was asked about it. */
function makeScene(app, sample) {
  const question = el("p", { class: "question" }, span("muted", "Question: "), said(sample.question));
  const clip = app.payload.clips[sample.clip] ?? { path: "", src: null, why: "" };
  return el("div", {}, makeClip(clip), sample.question ? question : null);
}

/** The rows of a group with what the payload says of each. */
function rowsOf(app, g) {
  const { groups, rows } = app.index;
  const made = [];
  for (let i = groups.start[g]; i < groups.start[g + 1]; i++) {
    made.push({ ...rowOf(app.payload, rows.source[i]), cell: rows.cell[i], passes: app.found.fails[i] === 0 });
  }
  return made;
}

function rowOf(payload, row) {
  const from = payload.rows;
  const parts = Object.entries(from.parts).map(([name, values]) => [name, values[row]]);
  return {
    completion: from.completion[row],
    text: payload.texts[from.text[row]] ?? "",
    explanation: payload.explanations[from.explanation[row]] ?? { text: "", sentences: [] },
    answer: payload.answers[from.answer[row]] ?? "",
    answerId: from.answer_id[row],
    judged: from.judged.map((read) => read[row]),
    wellFormed: from.well_formed[row] === 1,
    tokens: from.tokens[row],
    truncated: from.truncated[row] === 1,
    reward: from.reward[row] ?? null,
    advantage: from.advantage[row] ?? null,
    parts: parts.filter(([, value]) => value !== null && value !== undefined),
  };
}

function detailHead(app, g, sample) {
  const { groups } = app.index;
  const run = app.payload.runs[groups.run[g]];
  const label = labelOf(app.payload, sample.space, sample.label);
  const title = el("h3", { id: "detail-title", tabindex: "-1" }, sample.id, span("label", dot(label.colour), label.name));
  const words = `${run.name} · ${whenOf(groups, g)} · ${app.payload.datasets[sample.dataset]}`;
  return el("header", { class: "detail-head" }, title, el("p", { class: "muted" }, armDot(app, run), words));
}

function armDot(app, run) {
  return dot(app.payload.arms[run.arm]?.colour, "dot square");
}

// -- the same clip at other steps and in other runs -------------------------------------------------------------------

/** The rollouts of this group's clip in the same run, in the order of their steps. */
function sameClip(app, g) {
  const { groups } = app.index;
  const fits = (one) => groups.kind[one] === ROLLOUT && groups.run[one] === groups.run[g];
  return groupsOfSample(app.index, groups.sample[g]).filter(fits);
}

function makeTimeline(app, g, open) {
  const { groups } = app.index;
  const steps = sameClip(app, g);
  const title = el("h4", {}, "This clip across training");
  if (!steps.length) return [title, remark("This run did not train on the clip.")];
  const rewards = steps.map((one) => groups.reward[one]).filter((value) => !Number.isNaN(value));
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const height = (one) => (high > low ? (groups.reward[one] - low) / (high - low) : 0.5);
  const buttons = steps.map((one) => stepButton(app, one, g, height(one), open));
  const points = rewards.length ? `Dots: mean reward, ${number(low)} to ${number(high)}. ` : "";
  const words = `${points}Bars: shares of the four cells. The keys [ and ] go to the step before and after.`;
  const strip = el("div", { class: "steps", role: "group", "aria-label": "Steps at which this run saw the clip" }, ...buttons);
  return [title, strip, remark(words)];
}

function stepButton(app, one, g, height, open) {
  const { groups } = app.index;
  const size = groups.start[one + 1] - groups.start[one];
  const stack = span("stack");
  for (let cell = 0; cell < 4; cell++) {
    const count = groups.cells[4 * one + cell];
    if (!count) continue;
    const piece = span(`piece piece-${cell}`);
    piece.style.setProperty("flex-grow", String(count / size));
    stack.append(piece);
  }
  const point = span("point");
  point.style.setProperty("--height", String(Number.isNaN(height) ? 0.5 : height));
  const words = groupWords(app, one);
  const current = one === g ? "step" : null;
  const button = el("button", { type: "button", class: "step", "aria-label": words, title: words, "aria-current": current });
  button.append(span("track", point), stack, span("when", String(groups.step[one])));
  button.addEventListener("click", () => open(one, { focus: false, restore: ".steps [aria-current]" }));
  return button;
}

function makeTests(app, g, open) {
  const { groups } = app.index;
  const tests = groupsOfSample(app.index, groups.sample[g]).filter((one) => groups.kind[one] === PREDICTION);
  const title = el("h4", {}, "This clip in the tests");
  if (!tests.length) {
    const anyTest = groups.kind.includes(PREDICTION);
    return [title, remark(anyTest ? "No run was tested on this clip." : "No run of this report was tested.")];
  }
  return [title, el("ul", { class: "tests" }, ...tests.map((one) => el("li", {}, testButton(app, one, g, open))))];
}

function testButton(app, one, g, open) {
  const { groups, rows } = app.index;
  const i = groups.start[one];
  const answer = app.payload.answers[app.payload.rows.answer[rows.source[i]]] || "no answer";
  const run = app.payload.runs[groups.run[one]];
  const words = `${groupWords(app, one)}, answer ${answer}`;
  const current = one === g ? "true" : null;
  const button = el("button", { type: "button", class: "test", "aria-current": current, "aria-label": words });
  button.append(armDot(app, run), span("name", run.name), mark(rows.cell[i]), said(answer.slice(0, 60)));
  button.addEventListener("click", () => open(one, { focus: false, restore: ".tests [aria-current]" }));
  return button;
}
