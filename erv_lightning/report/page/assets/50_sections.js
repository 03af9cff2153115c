// The head of the page and its sections: figures that Plotly draws when they come into view, and tables.

function showHead(payload) {
  document.title = payload.title;
  byId("title").textContent = payload.title;
  byId("made").textContent = `made ${payload.made.replace("T", " ")}`;
  if (payload.command) showCommand(byId("command"), payload.command);
  byId("arms").append(...payload.arms.map((arm, place) => armLegend(payload, arm, place)));
  if (payload.notes.length) {
    const notes = payload.notes.map((note) => el("li", {}, ...withCode(note)));
    byId("notes").append(el("ul", { class: "notice notes", "aria-label": "What is missing" }, ...notes));
  }
  byId("foot").textContent = `erv_lightning ${payload.version}. This page is complete: it asks nothing of the network.`;
}

function armLegend(payload, arm, place) {
  const count = payload.runs.filter((run) => run.arm === place).length;
  return el("li", {}, dot(arm.colour), `${arm.name} `, span("muted", plural(count, "run")));
}

function dot(colour, name = "dot") {
  const made = el("span", { class: name, "aria-hidden": "true" });
  made.style.setProperty("--dot", colour);
  return made;
}

function showCommand(holder, command) {
  holder.hidden = false;
  const copy = el("button", { type: "button", class: "tool", "aria-label": "Copy the command" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
    } catch { // without a clipboard, as on some file:// pages, the command is selected for Ctrl-C
      getSelection().selectAllChildren(holder.firstChild);
      copy.textContent = "Press Ctrl-C";
    }
  });
  holder.append(el("code", { tabindex: "0", "aria-label": "Command that made this page" }, command), copy);
}

/** A sentence with its `code` between back-quotes as code. */
function withCode(text) {
  return text.split("`").map((part, place) => (place % 2 ? el("code", {}, part) : part));
}

// What the bar calls the sections, which have to fit beside each other.
const SHORT = {
  curves: "Curves", reward: "Rewards", length: "Length", comparison: "Comparison", confusion: "Confusion", cells: "Four cells",
};

function showSections(payload) {
  for (const section of payload.sections) byId("sections").append(makeSection(section));
  const targets = payload.sections.map(({ id, title }) => ({ id, title: SHORT[id] ?? title }));
  targets.push({ id: "browse", title: "Responses" });
  byId("nav").append(...targets.map(navLink));
  markPlace(targets);
}

function makeSection(section) {
  const many = section.figures.length > MANY;
  const made = section.figures.map((figure) => makeFigure(figure, many));
  const figures = el("div", { class: many ? "figures many" : "figures" }, ...made);
  return el(
    "section",
    { id: section.id, "aria-labelledby": `${section.id}-title`, tabindex: "-1" },
    el("h2", { id: `${section.id}-title` }, section.title),
    section.text ? el("p", { class: "muted lead-text" }, ...withCode(section.text)) : null,
    section.figures.length ? figures : null,
    ...section.tables.map(makeTable),
    section.figures.length || section.tables.length ? null : missing("There is nothing to show here."),
  );
}

/** A link that goes to a section and leaves the address alone, where the filters stand. */
function navLink({ id, title }) {
  const link = el("a", { href: `#${id}`, id: `nav-${id}` }, title);
  link.addEventListener("click", (event) => { event.preventDefault(); goTo(id); });
  return el("li", {}, link);
}

function goTo(id) {
  const section = byId(id);
  if (!section) return;
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

/** Marks in the bar which section is being read. */
function markPlace(targets) {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = byId(`nav-${entry.target.id}`);
      if (!entry.isIntersecting) { link.removeAttribute("aria-current"); continue; }
      link.setAttribute("aria-current", "true");
      byId("nav").scrollLeft = link.offsetLeft - byId("nav").clientWidth / 2; // on narrow screens the links scroll
    }
  }, { rootMargin: "-30% 0px -70% 0px" });
  for (const { id } of targets) seen.observe(byId(id));
}

// -- figures ----------------------------------------------------------------------------------------------------------

const PLOT_HEIGHT = 360; // px
const SMALL_HEIGHT = 250;
const PLOT_CONFIG = {
  displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtons: [["toImage", "resetScale2d"]],
};
const MANY = 4; // a section of more figures shows them small, three abreast
const drawn = new Set();
const waiting = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    waiting.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "300px" });

/** A figure with its heading and caption; one of `many` is drawn smaller. */
function makeFigure(figure, many) {
  const plot = el("div", { class: "plot", role: "img", "aria-label": figure.alt, id: `figure-${figure.id}` });
  if (figure.plotly) {
    plot.figure = figure.plotly;
    plot.small = many;
    plot.height = many ? SMALL_HEIGHT : figure.plotly.layout?.height ?? PLOT_HEIGHT;
    plot.style.setProperty("min-height", `${plot.height}px`); // room from the start, so that nothing moves when it is drawn
    waiting.observe(plot);
  } else {
    plot.append(missing("There is nothing to draw."));
  }
  const wide = "xaxis3" in (figure.plotly?.layout ?? {}); // three panels side by side need the whole width
  return el(
    "figure",
    { class: wide ? "wide" : null },
    el("h3", {}, figure.title),
    plot,
    figure.caption ? el("figcaption", { class: "muted" }, ...withCode(figure.caption)) : null,
  );
}

async function draw(plot) {
  // Plotly stands at the end of the page, so a figure may come into view before it is there.
  if (document.readyState === "loading") await new Promise((ready) => document.addEventListener("DOMContentLoaded", ready));
  if (!window.Plotly) {
    const words = "This figure cannot be drawn: the charting library in this file is damaged. Write the report again.";
    plot.replaceChildren(missing(words));
    return;
  }
  await Plotly.react(plot, plot.figure.data, themed(plot.figure.layout ?? {}, plot), PLOT_CONFIG);
  drawn.add(plot);
}

function redraw() {
  for (const plot of drawn) draw(plot);
}

/** A layout with the page's colours and font. The title goes: the page has it as a heading. */
function themed(layout, plot) {
  const [ink, muted, line, surface] = ["--ink", "--muted", "--line", "--surface"].map(colourOf);
  const made = {
    ...layout,
    title: undefined,
    width: undefined,
    autosize: true,
    height: plot.height,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { ...layout.font, color: ink, size: layout.font?.size ?? 12.5, family: getComputedStyle(document.body).fontFamily },
    margin: plot.small ? { l: 40, r: 10, t: 34, b: 40 } : { l: 56, r: 16, t: 32, b: 48, ...layout.margin },
    annotations: layout.annotations?.map(smallPrint),
    hoverlabel: { ...layout.hoverlabel, bgcolor: surface, bordercolor: line, font: { color: ink } },
    legend: { ...layout.legend, bgcolor: "rgba(0,0,0,0)", font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink },
  };
  const tight = plot.clientWidth < 480 && layout.legend?.orientation !== "h"; // no room for a legend at the side
  if (tight) Object.assign(made.legend, { orientation: "h", x: 0, xanchor: "left", y: -0.25, yanchor: "top" });
  if (matchMedia("(pointer: coarse)").matches) made.dragmode = false; // a finger on a figure scrolls the page
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key)).concat("xaxis", "yaxis")) {
    made[name] = themedAxis(layout[name] ?? {}, line, muted);
  }
  return made;
}

function themedAxis(axis, line, muted) {
  const colours = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
  const made = { automargin: true, ...axis, ...colours, tickfont: { ...axis.tickfont, color: muted } };
  const words = axis.title?.text ?? axis.title; // Plotly takes both forms
  if (words) made.title = { standoff: axis.title.standoff, text: words, font: { size: 12.5, color: muted } };
  return made;
}

/** The headings of panels, which are annotations to Plotly, in the size of other text. */
function smallPrint(annotation) {
  return { ...annotation, font: { ...annotation.font, size: Math.min(annotation.font?.size ?? 12.5, 13) } };
}

// -- tables -----------------------------------------------------------------------------------------------------------

/** A table; the rows of single seeds are folded away behind a button. */
function makeTable(table) {
  const rows = table.rows.map((row) => makeRow(row));
  const seeds = rows.filter((_, place) => table.rows[place].kind === "seed");
  const head = el("tr", {}, ...table.columns.map((name) => el("th", { scope: "col" }, name)));
  const words = table.caption ? span("muted", ...withCode(table.caption)) : null;
  const caption = el("caption", {}, el("strong", {}, table.title), words);
  const grid = el("table", {}, caption, el("thead", {}, head), el("tbody", {}, ...rows));
  const scrolled = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title }, grid);
  return el("div", { class: "tabular" }, scrolled, seeds.length ? seedSwitch(seeds) : null);
}

function makeRow({ cells, kind }) {
  const [first, ...others] = cells;
  const numbers = others.map((cell) => el("td", {}, ...withInterval(cell)));
  return el("tr", { class: kind, hidden: kind === "seed" }, el("th", { scope: "row" }, first), ...numbers);
}

/** "0.912 [0.88, 0.94]" with its interval in small print. */
function withInterval(cell) {
  const at = cell.search(/\s*[[(]/);
  return at > 0 ? [cell.slice(0, at), span("interval", cell.slice(at))] : [cell];
}

function seedSwitch(seeds) {
  const words = (open) => `${open ? "Hide" : "Show"} ${plural(seeds.length, "single seed")}`;
  const button = el("button", { type: "button", class: "tool", "aria-expanded": "false" }, words(false));
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    button.textContent = words(open);
    for (const row of seeds) row.hidden = !open;
  });
  return button;
}
