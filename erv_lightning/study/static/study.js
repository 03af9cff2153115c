// Small comforts of the study's pages. Without it every form still works.
"use strict";

const WATCHED = 0.8; // share of a clip that counts as seen

function copyLinks() {
  for (const field of document.querySelectorAll("[data-link]")) {
    field.value = new URL(field.value, location.href).href;
    field.addEventListener("focus", () => field.select());
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    const field = document.getElementById(button.dataset.copy);
    button.hidden = false;
    button.addEventListener("click", async () => {
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
        document.querySelector("[data-copied]").textContent = "Copied.";
      } catch {
        document.querySelector("[data-copied]").textContent = "Please copy it with Ctrl-C.";
      }
    });
  }
}

// A second click must not send a form twice; coming back to the page by "back" makes it usable again.
function sendOnce(form) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    if (sent) event.preventDefault();
    sent = true;
  });
  addEventListener("pageshow", (event) => {
    sent = false;
    if (event.persisted && form.hasAttribute("data-page")) location.reload();
  });
}

function playedSeconds(video) {
  let seconds = 0;
  for (let i = 0; i < video.played.length; i++) seconds += video.played.end(i) - video.played.start(i);
  return seconds;
}

// Asks for the clip to be watched, and measures; what the clip cannot show, it does not ask for.
function watchPage(form) {
  const video = form.querySelector("video");
  const button = form.querySelector("button[type=submit]");
  const hint = form.querySelector("[data-hint]");
  const opened = performance.now();
  let free = false;

  const update = () => {
    const share = video.duration > 0 ? playedSeconds(video) / video.duration : 0;
    free = free || video.error !== null || video.ended || share >= WATCHED;
    button.setAttribute("aria-disabled", String(!free));
    button.textContent = free ? "Send and go on" : "Please watch the clip first";
    hint.textContent = video.error === null ? "" : "The clip cannot be played here. Please say so in a comment.";
  };
  for (const name of ["timeupdate", "ended", "error", "loadedmetadata"]) video.addEventListener(name, update);
  form.addEventListener("submit", (event) => {
    if (!free) {
      event.preventDefault();
      hint.textContent = "The clip has not been played to its end yet.";
      video.focus();
      return;
    }
    form.elements.seconds.value = ((performance.now() - opened) / 1000).toFixed(1);
    form.elements.watched.value = playedSeconds(video).toFixed(1);
  });
  update();
}

copyLinks();
for (const form of document.querySelectorAll("form[data-page]")) watchPage(form);
for (const form of document.querySelectorAll("form[data-once]")) sendOnce(form);
