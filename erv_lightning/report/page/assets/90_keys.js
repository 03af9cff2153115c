// The keyboard: what each key does, in one table that also makes the help.

/** Wires the keys. `moves` has a function for each action. */
function startKeys(app, moves) {
  const everywhere = { j: moves.next, k: moves.previous, "/": moves.search, "[": moves.earlier, "]": moves.later, "?": showKeys };
  const inList = {
    ArrowDown: moves.next, ArrowUp: moves.previous, PageDown: moves.pageDown, PageUp: moves.pageUp,
    Home: moves.first, End: moves.last, Enter: moves.open, " ": moves.open,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const writing = event.target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (writing) return leave(event);
    const action = (event.target === byId("list") ? inList[event.key] : undefined) ?? everywhere[event.key];
    if (!action || byId("browse").hidden) return;
    event.preventDefault();
    action();
  });
  byId("help").addEventListener("click", showKeys);
}

/** Escape and Enter in the search lead back to the list. */
function leave(event) {
  if (event.target.id !== "search" || !["Escape", "Enter"].includes(event.key)) return;
  if (event.key === "Enter") event.preventDefault();
  byId("list").focus();
}

const KEYS = [
  ["j, ↓", "next group of the list (arrows: while the list has the focus)"],
  ["k, ↑", "group before"],
  ["Page up, Page down, Home, End", "further along the list"],
  ["Enter", "open the group and go to it"],
  ["[, ]", "the same clip at the step before, after"],
  ["/", "search; Escape leads back to the list"],
  ["?", "this help"],
];

function showKeys() {
  const dialog = byId("keys");
  if (!dialog.firstChild) {
    const close = el("button", { type: "button", class: "tool" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const caps = (keys) => keys.split(", ").map((key) => el("kbd", {}, key));
    const rows = KEYS.flatMap(([keys, words]) => [el("dt", {}, ...caps(keys)), el("dd", {}, words)]);
    dialog.append(el("h2", { id: "keys-title" }, "Keys"), el("dl", {}, ...rows), close);
  }
  dialog.showModal();
}
