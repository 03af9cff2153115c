// The completions of the opened group, side by side: what each says, and what it was worth.

function makeCards(app, g, sample, rows) {
  const holder = el("div", { class: "cards" });
  const scale = Math.max(1, ...rows.map((row) => Math.abs(row.advantage ?? 0)));
  const fill = (byReward) => {
    const order = byReward ? rows.toSorted((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity)) : rows;
    holder.replaceChildren(...order.map((row) => makeCard(app, sample, row, rows.length, scale)));
  };
  fill(app.cardsByReward);
  if (rows.length < 2) return [holder];
  const passing = rows.filter((row) => row.passes).length;
  const words = plural(rows.length, "completion") + (passing < rows.length ? `, ${passing} of them within the filters` : "");
  const pressed = String(app.cardsByReward);
  const button = el("button", { type: "button", class: "tool", "aria-pressed": pressed }, "Highest reward first");
  button.addEventListener("click", () => {
    app.cardsByReward = !app.cardsByReward;
    button.setAttribute("aria-pressed", String(app.cardsByReward));
    fill(app.cardsByReward);
  });
  return [el("div", { class: "cards-head" }, el("h4", {}, words), button), holder];
}

function makeCard(app, sample, row, size, scale) {
  const title = size > 1 ? `Completion ${row.completion + 1}` : "Response";
  return el(
    "article", { class: `card${row.passes ? "" : " outside"}`, "aria-label": `${title}: ${CELLS[row.cell].name}` },
    el("header", {}, el("h5", {}, title), span("cell-name", mark(row.cell), CELLS[row.cell].name)),
    answerLine(app, sample, row),
    judgeLine(app, sample, row),
    makeExplanation(app.payload, row.explanation, sample, row.answerId),
    row.reward === null ? null : rewardBox(row, scale),
    cardFoot(row),
  );
}

function answerLine(app, sample, row) {
  const right = row.answerId >= 0 && row.answerId === sample.label;
  const { name, colour } = labelOf(app.payload, sample.space, row.answerId);
  const answer = row.answer ? said(row.answer.slice(0, 200), "strong") : el("em", {}, "no answer");
  const unknown = row.answer && row.answerId < 0 ? " (no label of this data set)" : "";
  const known = row.answerId >= 0 && row.answer.toLowerCase() !== name ? ` (${name})` : unknown;
  const verdict = right ? span("right", "✓ right") : span("wrong", "✗ wrong");
  return el("p", { class: "answer" }, "Answers ", dot(colour), answer, known, " ", verdict);
}

function judgeLine(app, sample, row) {
  if (!app.payload.judges.length) return null;
  const readings = app.payload.judges.map((judge, place) => {
    const { name, colour } = labelOf(app.payload, sample.space, row.judged[place]);
    return span("reading", `${judge} reads `, dot(colour), row.judged[place] >= 0 ? name : "nothing");
  });
  return el("p", { class: "judges muted" }, ...readings);
}

function rewardBox(row, scale) {
  const parts = row.parts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, number(value))));
  const total = el("div", { class: "total" }, el("dt", {}, "reward"), el("dd", {}, number(row.reward)));
  const advantage = row.advantage === null ? null : advantageBar(row.advantage, scale);
  return el("div", { class: "rewards" }, el("dl", {}, total, ...parts), advantage);
}

/** The advantage as a number and as a bar to the left or right of zero. */
function advantageBar(advantage, scale) {
  const bar = span(advantage < 0 ? "fill below" : "fill above");
  bar.style.setProperty("--share", String(Math.min(1, Math.abs(advantage) / scale)));
  const value = span("value", number(advantage, { sign: true }));
  return el("div", { class: "advantage" }, span("muted", "advantage"), span("axis", bar), value);
}

function cardFoot(row) {
  const facts = el("div", { class: "facts" });
  if (row.tokens >= 0) facts.append(span("muted", plural(row.tokens, "token")));
  if (row.truncated) facts.append(span("badge", "cut off"));
  if (!row.wellFormed) facts.append(span("badge", "malformed"));
  const foot = el("footer", {}, facts);
  if (row.text) facts.append(rawSwitch(row, foot));
  return foot;
}

/** A button for the response as it came, tags and all. */
function rawSwitch(row, foot) {
  const button = el("button", { type: "button", class: "tool", "aria-expanded": "false" }, "Whole response");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    if (open) foot.append(said(row.text, "pre", { class: "raw", tabindex: "0" }));
    else foot.lastChild.remove();
  });
  return button;
}
