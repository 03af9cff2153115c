// Light and dark: the reader's choice, else the system's. Colours live in page.css; figures are told them from here.

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const choice = document.documentElement.dataset.theme;
  return choice ? choice === "dark" : systemDark.matches;
}

/** The resolved value of a colour variable of page.css: "rgb(…)", as Plotly wants it. */
function colourOf(variable) {
  const probe = byId("theme");
  probe.style.setProperty("--probe", `var(${variable})`);
  probe.style.setProperty("outline-color", "var(--probe)"); // nothing shows: outlines have a style only while focused
  const colour = getComputedStyle(probe).outlineColor;
  probe.style.removeProperty("outline-color");
  probe.style.removeProperty("--probe");
  return colour;
}

/** Wires the button; `changed` is called after every change of theme. */
function startTheme(changed) {
  const button = byId("theme");
  const show = () => {
    const other = isDark() ? "Light" : "Dark";
    button.textContent = other;
    button.setAttribute("aria-label", `${other} theme`);
    changed();
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("erv-theme", document.documentElement.dataset.theme);
    } catch { /* a file:// page may have no storage: the choice then lasts until the page is closed */ }
    show();
  });
  systemDark.addEventListener("change", show);
  show();
}
