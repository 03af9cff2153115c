// A clip that plays. The file is touched when its group is opened, never before.

const REST = 300; // ms that a group stays open before its first picture is read: walking through the list reads no files

/** The clip of a sample with its player, or the words for why it cannot be played. */
function makeClip(clip) {
  const holder = el("div", { class: "clip" });
  const path = el("p", { class: "path muted small" }, el("span", {}, "Clip: "), el("code", {}, clip.path));
  const url = clip.src === null ? null : playable(clip.src);
  if (url === null) {
    holder.append(noPlay(clip.why || "The clip is not in this report."), path);
    return holder;
  }
  const video = el("video", { controls: true, preload: "none", playsinline: true, "aria-label": "The clip" });
  video.addEventListener("error", () => video.replaceWith(noPlay(whyNot(video, clip))));
  video.src = url;
  holder.append(video, path);
  setTimeout(() => { if (video.isConnected) video.preload = "metadata"; }, REST);
  return holder;
}

function noPlay(words) {
  return el("p", { class: "noplay", role: "note" }, words);
}

function whyNot(video, clip) {
  if (video.error?.code === MediaError.MEDIA_ERR_DECODE) {
    return "This browser cannot decode the clip: it may be damaged, or in a format that the browser does not know.";
  }
  if (clip.src.startsWith("media:")) {
    return "This browser cannot play the format of the clip. MP4 with H.264 and AAC plays everywhere.";
  }
  return (
    "The clip was not found where the report looks for it, or this browser cannot play its format. The report names " +
    "clips by their place relative to itself: move both together, or write it with --clips copy or --clips embed."
  );
}
