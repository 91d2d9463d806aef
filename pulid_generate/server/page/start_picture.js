// A picture to start from: what of it is drawn anew is painted.

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
}

export function remove() {
  file = null;
  by("init-work").hidden = true;
  by("init").value = "";
}

// The picture and its mask, to start from again.
export function kept() { return file ? { file, mask: stage.mask ? copied(stage.mask) : null } : null; }

export function startAgain(before) {
  return startFrom(before.file, before.mask ? copied(before.mask) : null);
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
  const fields = { init_img: `init.${ending}`, strength: by("strength").value };
  const files = { [fields.init_img]: file };
  if (stage.mask) {
    fields.mask = "mask.png";
    files[fields.mask] = await maskPng(stage.mask, true);
  }
  return [fields, files];
}
