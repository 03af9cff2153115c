// Puts the parts together: what is shown follows from the filter, the order and the opened group, which the address keeps.

const wide = matchMedia("(min-width: 900px)"); // list and detail side by side, as in page.css

async function start() {
  const payload = await readPayload();
  byId("status").remove();
  showHead(payload);
  startTheme(redraw);
  byId("browse").hidden = false;
  showSections(payload);
  startBrowser(payload);
}

function startBrowser(payload) {
  if (!payload.judges.length) {
    CELLS[1].name = "right, not judged";
    CELLS[3].name = "wrong, not judged";
  }
  const app = {
    payload, index: makeIndex(payload), filter: noFilter(), sort: "step", cardsByReward: false,
    open: null, // the opened group
    found: null, // what passes the filter, see applyFilter
  };
  const list = makeList(app, (g, how) => openGroup(g, how));
  const change = (edit) => { edit(app.filter); refresh(); };

  function refresh() {
    app.found = applyFilter(app, app.filter, app.sort);
    showControls(app, change);
    showGroups(app, list);
    remember(app);
  }

  /** Opens a group. `focus` moves the focus to its title; `restore` finds what had it, made anew. */
  function openGroup(g, { focus = false, restore = null } = {}) {
    app.open = g;
    showDetail(app, g, openGroup);
    showOpened(app, list);
    remember(app);
    if (focus && wide.matches) byId("panes").scrollIntoView();
    if (focus) byId("detail-title").focus({ preventScroll: wide.matches });
    else if (restore) byId("detail").querySelector(restore)?.focus({ preventScroll: true });
    else if (!wide.matches) byId("detail").scrollIntoView();
  }

  function restore() {
    Object.assign(app, fromHash(app, location.hash));
    refresh();
    showDetail(app, app.open, openGroup);
  }

  makeControls(app, change);
  byId("sort").addEventListener("change", () => {
    app.sort = byId("sort").value;
    refresh();
  });
  startKeys(app, moves(app, list, openGroup));
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); goTo("browse"); });
  addEventListener("hashchange", restore);
  restore();
  if (app.open !== null) byId(wide.matches ? "panes" : "detail").scrollIntoView({ behavior: "instant" });
}

/** Keeps filter, order and opened group in the address, so that a reload or a link shows the same. */
function remember(app) {
  clearTimeout(app.remembering);
  app.remembering = setTimeout(() => writeAddress(toHash(app)), 150); // browsers complain of addresses that change with every key
}

function writeAddress(hash) {
  try {
    history.replaceState(null, "", hash ? `#${hash}` : `${location.pathname}${location.search}`);
  } catch { /* some browsers forbid it on file:// pages: the page works without */ }
}

function moves(app, list, open) {
  let timer = 0;
  const openActive = (how = {}) => {
    if (app.found.groups.length) open(app.found.groups[list.active], how);
  };
  const move = (place) => {
    activate(app, list, place);
    if (document.activeElement !== list.box) list.box.focus({ preventScroll: wide.matches });
    clearTimeout(timer);
    // With both in view, the detail follows once one group is open; not at every key of a long walk.
    if (app.open !== null && wide.matches) timer = setTimeout(openActive, 120);
  };
  const page = () => Math.max(1, Math.floor(list.box.clientHeight / ROW) - 1);
  const along = (by) => {
    if (app.open === null) return;
    const steps = sameClip(app, app.open);
    const next = steps[steps.indexOf(app.open) + by];
    if (next !== undefined) open(next, { restore: ".steps [aria-current]" });
  };
  return {
    next: () => move(app.open === null && document.activeElement !== list.box ? list.active : list.active + 1),
    previous: () => move(list.active - 1),
    pageDown: () => move(list.active + page()),
    pageUp: () => move(list.active - page()),
    first: () => move(0),
    last: () => move(Infinity),
    open: () => openActive({ focus: true }),
    search: () => {
      byId("filters").classList.add("shown");
      byId("show-filters").setAttribute("aria-expanded", "true");
      app.searchInput.focus();
      app.searchInput.select();
    },
    earlier: () => along(-1),
    later: () => along(1),
  };
}

start().catch((problem) => {
  const status = byId("status") ?? byId("main").insertAdjacentElement("afterbegin", el("p", { class: "notice", role: "status" }));
  status.textContent = problem.message;
  status.classList.add("failed");
});
