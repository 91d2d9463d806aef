// A picture to start from: what of it is drawn anew is painted, or its faces are found by the server.

import { by, dropsOn } from "./api.js";
import { Stage, load, maskPng } from "./stage.js";

const HINTS = {
  painted: "Paint what is to be drawn anew; without a mask all of it is.",
  faces: "The largest face becomes the person's; of several people each has the face in its box. All else stays as it is.",
};
let stage;
let file = null;

export function start(canFindFaces) {
  stage = new Stage(by("init-canvas"));
  stage.tool = "brush";
  stage.brush = 60;
  by("anew-faces").hidden = !canFindFaces;
  by("init").addEventListener("change", (event) => event.target.files[0] && startFrom(event.target.files[0]));
  dropsOn(by("edit-part"), (files) => startFrom(files[0]));
  by("init-brush").addEventListener("input", (event) => { stage.brush = Number(event.target.value); });
  by("init-clear").addEventListener("click", () => { stage.mask = null; stage.draw(); });
  by("init-remove").addEventListener("click", remove);
  for (const input of document.querySelectorAll("input[name=init-tool]")) {
    input.addEventListener("change", () => { stage.tool = input.value; });
  }
  for (const input of document.querySelectorAll("input[name=anew]")) input.addEventListener("change", () => choose(input.value));
  choose("painted");
}

function choose(name) {
  document.querySelector(`input[name=anew][value=${name}]`).checked = true;
  by("init-hint").textContent = HINTS[name];
  by("init-tools").hidden = name === "faces";
  stage.tool = name === "faces" ? "choose" : document.querySelector("input[name=init-tool]:checked").value;
  stage.draw();
}

function isForFaces() { return document.querySelector("input[name=anew]:checked").value === "faces"; }

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
export function kept() { return file ? { file, mask: stage.mask ? copied(stage.mask) : null, isForFaces: isForFaces() } : null; }

export async function startAgain(before) {
  await startFrom(before.file, before.mask ? copied(before.mask) : null);
  choose(before.isForFaces ? "faces" : "painted");
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
  if (isForFaces()) {
    fields.only_faces = "true";
  } else if (stage.mask) {
    fields.mask = "mask.png";
    files[fields.mask] = await maskPng(stage.mask, true);
  }
  return [fields, files];
}
