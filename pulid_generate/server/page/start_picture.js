// A picture to start from: what of it is drawn anew is painted, or it is the faces alone.

import { by, dropsOn } from "./api.js";
import { Stage, load, maskPng } from "./stage.js";

let stage;
let file = null;

export function start() {
  stage = new Stage(by("init-canvas"));
  stage.tool = "brush";
  stage.brush = 60;
  by("init").addEventListener("change", (event) => event.target.files[0] && startFrom(event.target.files[0]));
  dropsOn(by("edit-part"), (files) => startFrom(files[0]));
  by("init-brush").addEventListener("input", (event) => { stage.brush = Number(event.target.value); });
  by("init-clear").addEventListener("click", () => { stage.mask = null; stage.draw(); });
  by("init-remove").addEventListener("click", remove);
  for (const input of document.querySelectorAll("input[name=init-tool]")) {
    input.addEventListener("change", () => { stage.tool = input.value; });
  }
  for (const input of whats()) input.addEventListener("change", () => redraw(input.value));
}

function whats() { return document.querySelectorAll("input[name=init-what]"); }

// "picture" or "faces": what is redrawn.
export function redraw(what) {
  for (const input of whats()) input.checked = input.value === what;
  for (const part of document.querySelectorAll("[data-what]")) part.hidden = part.dataset.what !== what;
  const isPainted = what === "picture";
  stage.tool = isPainted ? document.querySelector("input[name=init-tool]:checked").value : "choose";
  stage.showsMask = isPainted;
  stage.draw();
  changed();
}

function changed() { by("init-canvas").dispatchEvent(new CustomEvent("redrawn", { bubbles: true })); }

// The picture whose faces alone are redrawn, as an image and its size; null where a picture is drawn.
export function faces() {
  if (!file || document.querySelector("input[name=init-what]:checked").value !== "faces") return null;
  return { image: stage.image, size: stage.size };
}

// mask: painted before.
export async function startFrom(blob, mask = null) {
  by("init-error").textContent = "";
  let image;
  try {
    image = await load(blob);
  } catch {
    by("init-error").textContent = `${blob.name ?? "the picture"}: the browser cannot show it; expected a PNG, JPEG or WebP`;
    return;
  }
  file = blob;
  by("edit-part").open = true;
  by("init-work").hidden = false;
  stage.show(image, image.naturalWidth, image.naturalHeight, { mask });
  by("init-canvas").dispatchEvent(new CustomEvent("started", { detail: stage.size, bubbles: true }));
  changed();
}

export function remove() {
  file = null;
  by("init-work").hidden = true;
  by("init").value = "";
  changed();
}

// The picture and its mask, to start from again.
export function kept() {
  if (!file) return null;
  return { file, mask: stage.mask ? copied(stage.mask) : null, what: faces() ? "faces" : "picture" };
}

export async function startAgain(before) {
  await startFrom(before.file, before.mask ? copied(before.mask) : null);
  redraw(before.what);
}

function copied(mask) {
  const made = new OffscreenCanvas(mask.width, mask.height);
  made.getContext("2d").drawImage(mask, 0, 0);
  return made;
}

// [fields, files] of a request.
export async function request() {
  if (!file) return [{}, {}];
  const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[file.type] ?? "png";
  const [name, strength] = [`init.${ending}`, by("strength").value];
  const files = { [name]: file };
  if (faces()) return [{ detail_img: name, strength }, files];
  const fields = { init_img: name, strength };
  if (stage.mask) {
    fields.mask = "mask.png";
    files[fields.mask] = await maskPng(stage.mask, true);
  }
  return [fields, files];
}
