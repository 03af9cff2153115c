// What the page is made of: the payload, and elements that hold text.
// Everything a model wrote enters the page as a text node. Nothing here, and nothing after it, parses a string as HTML.

const byId = (id) => document.getElementById(id);

/** An element; strings among `children` become text nodes, `on` holds event handlers, null attributes are left out. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The commonest elements: a span of a class, small grey words, a paragraph that says what is missing. */
const span = (name, ...children) => el("span", { class: name }, ...children);
const remark = (...children) => el("p", { class: "muted small" }, ...children);
const missing = (words) => el("p", { class: "empty" }, words);

/** What a model wrote: isolated, so that its writing direction ends with it, and with invisible controls made visible. */
function said(text, name = "span", attributes = {}) {
  return el(name, { ...attributes, dir: "auto", class: `said ${attributes.class ?? ""}`.trim() }, visible(text));
}

// Characters that reorder or hide what stands beside them. Tab and line breaks stay as they are.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g;

function visible(text) {
  return text.replace(HIDDEN, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** A number for reading: few decimals, a true minus sign, a dash where there is none. */
function number(value, { sign = false, decimals = 3 } = {}) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = String(Math.abs(Number(value.toFixed(decimals))));
  if (Number(text) === 0) return "0";
  return (value < 0 ? "−" : sign ? "+" : "") + text;
}

// -- the payload ------------------------------------------------------------------------------------------------------

function fromBase64(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Base64 of gzip of JSON. Rejects with a sentence that can be shown. */
async function readPayload() {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for the report: it cannot unpack compressed data. One of mid-2024 or later can.");
  }
  try {
    const packed = new Blob([fromBase64(byId("data").textContent)]);
    const unpacked = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(unpacked).text());
  } catch (problem) {
    throw new Error(
      `The data inside this file could not be unpacked (${problem.message}). Was it cut off while it was copied? ` +
      "Write the report again.",
    );
  }
}

// -- clips embedded in the page ---------------------------------------------------------------------------------------

const KEPT_CLIPS = 8; // unpacked clips kept in memory; the one opened longest ago goes first
const unpacked = new Map(); // key → blob: URL, the latest last

function unpack(key) {
  const holder = [...document.querySelectorAll("script[data-media]")].find((one) => one.dataset.media === key);
  return holder ? URL.createObjectURL(new Blob([fromBase64(holder.textContent)], { type: holder.dataset.type })) : null;
}

/** A URL that a <video> can play, for `src` of the payload: an embedded clip is unpacked when it is first wanted. */
function playable(src) {
  if (!src.startsWith("media:")) return src;
  const key = src.slice("media:".length);
  const known = unpacked.get(key);
  unpacked.delete(key);
  const url = known ?? unpack(key);
  if (url === null) return null;
  unpacked.set(key, url);
  for (const [old, oldUrl] of unpacked) {
    if (unpacked.size <= KEPT_CLIPS) break;
    URL.revokeObjectURL(oldUrl);
    unpacked.delete(old);
  }
  return url;
}
