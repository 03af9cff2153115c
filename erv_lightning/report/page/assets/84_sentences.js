// An explanation, each sentence marked by what the verifier reads in it beside label and answer.

const VERDICTS = {
  both: { symbol: "●", name: "label and answer" },
  label: { symbol: "◆", name: "label, not the answer" },
  answer: { symbol: "▲", name: "answer, not the label" },
  other: { symbol: "✕", name: "another emotion" },
  neutral: { symbol: "○", name: "only neutral" },
  unread: { symbol: "?", name: "not read" },
};
const AT_ONCE = 3000; // characters shown of a long text before a button shows the rest

/** Which verdict a sentence has: `labels` are the ids that it conveys. */
function verdictOf(labels, label, answer, neutral) {
  if (!labels.length) return "unread";
  const conveysLabel = label >= 0 && labels.includes(label);
  const conveysAnswer = answer >= 0 && labels.includes(answer);
  if (conveysLabel && conveysAnswer) return "both";
  if (conveysLabel) return "label";
  if (conveysAnswer) return "answer";
  return labels.every((one) => one === neutral) ? "neutral" : "other";
}

/** The explanation of a response: a paragraph of marked sentences, cut where it is very long. */
function makeExplanation(payload, explanation, sample, answer) {
  const holder = el("div", { class: "explanation" });
  if (!explanation.text) {
    holder.append(missing("No explanation."));
    return holder;
  }
  const fill = (limit) => {
    const { nodes, cut } = sentences(payload, explanation, sample, answer, limit);
    holder.replaceChildren(el("p", {}, ...nodes));
    if (!cut) return;
    const more = el("button", { type: "button", class: "tool" }, `Show all ${plural(explanation.text.length, "character")}`);
    more.addEventListener("click", () => fill(Infinity));
    holder.append(more);
  };
  fill(AT_ONCE);
  return holder;
}

function sentences(payload, explanation, sample, answer, limit) {
  const parts = explanation.sentences.length ? explanation.sentences : [{ text: explanation.text, labels: [], p: null }];
  const anyRead = parts.some((part) => part.labels.length);
  const nodes = [];
  let left = limit;
  for (const part of parts) {
    if (left <= 0) return { nodes, cut: true };
    const text = part.text.length > left ? `${part.text.slice(0, left)}…` : part.text;
    const space = payload.spaces[sample.space];
    const verdict = verdictOf(part.labels, sample.label, answer, space.neutral);
    nodes.push(anyRead ? makeSentence(space, { ...part, text }, verdict) : said(text), " ");
    if (part.text.length > left) return { nodes, cut: true };
    left -= part.text.length;
  }
  return { nodes, cut: false };
}

function makeSentence(space, { text, labels, p }, verdict) {
  const unread = verdict === "unread";
  const names = labels.map((id) => space.names[id] ?? "?").join(" + ");
  const { symbol, name } = VERDICTS[verdict];
  const title = unread ? "No verifier has read this sentence" : `The verifier reads ${names} (p ${number(p)}): ${name}`;
  const tag = `${symbol} ${names} ${p === null ? "" : number(p, { decimals: 2 })}`;
  return el("span", { class: `sentence v-${verdict}`, title }, said(text), " ", span("verdict", tag.trim()));
}

/** What the marks mean, or that no sentence was read. */
function makeLegend(explanations) {
  const read = explanations.some((one) => one.sentences.some((sentence) => sentence.labels.length));
  if (!read) return remark("No verifier has read these sentences.");
  const item = ([key, { symbol, name }]) => el("li", {}, span(`swatch v-${key}`, symbol), ` ${name}`);
  const items = Object.entries(VERDICTS).map(item);
  return el("div", { class: "legend" }, span("muted", "A sentence conveys:"), el("ul", {}, ...items));
}
