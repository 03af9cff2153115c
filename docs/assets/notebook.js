// Draws the charts of a notebook's page, in the page's colours, and again when these change.
(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("plotly-figures").textContent);
  const places = [...document.querySelectorAll(".plotly-figure")];

  function colours() {
    const style = getComputedStyle(document.body);
    const ink = style.getPropertyValue("--md-typeset-color").trim() || "#333";
    const dark = document.body.dataset.mdColorScheme === "slate";
    return { ink: ink, grid: dark ? "rgba(255,255,255,0.15)" : "rgba(0,0,0,0.12)" };
  }

  function layoutOf(figure) {
    const { ink, grid } = colours();
    const layout = structuredClone(figure.layout || {});
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { ...(layout.font || {}), color: ink };
    layout.autosize = true;
    delete layout.width;
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) layout[name] = { ...layout[name], gridcolor: grid, zerolinecolor: grid };
    }
    return layout;
  }

  function draw() {
    for (const place of places) {
      const figure = figures[Number(place.dataset.figure)];
      Plotly.react(place, structuredClone(figure.data), layoutOf(figure), { responsive: true, displaylogo: false });
    }
  }

  draw();
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
})();
