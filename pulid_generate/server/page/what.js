// What is drawn: the form and its request; the settings of a picture come back into it.

import { by, element, post } from "./api.js";
import * as advanced from "./advanced.js";
import * as errors from "./errors.js";
import * as people from "./people.js";
import * as places from "./places.js";
import * as start_picture from "./start_picture.js";

const SHAPES = [["1:1", 1, 1], ["3:4", 3, 4], ["4:3", 4, 3], ["9:16", 9, 16], ["16:9", 16, 9]];
const UNIT = 16;
// fields of the form itself
const PLAIN = ["prompt", "width", "height", "steps", "seed", "batch_count", "id_start_step"];
// of them, those that are about a picture as a whole, where only its faces are redrawn
const OF_A_PICTURE = ["width", "height", "batch_count", "id_start_step"];
// fields that the page has places of its own for
const OWN = new Set([...PLAIN, "pulid_id_weight", "strength", "init_img", "mask", "detail_img", "pulid_id_embedding", "identity",
  "files", "portraits", "face_index", "face_order", "face_at", "face_box", "landmarks"]);
// where a sentence's other names stand
const INPUTS = { init_img: "init", mask: "init", detail_img: "init", identity: "people", embedding: "people", size: "width" };
let usual = {};
let capabilities;

export function start(told) {
  capabilities = told;
  usual = { ...told.defaults, prompt: "", steps: told.defaults.steps ?? (told.dev ? 20 : 4) };
  for (const name of [...PLAIN, "strength"]) field(name).value = usual[name];
  slide("weight", "weight-slider", usual.pulid_id_weight);
  slide("strength", "strength-slider", usual.strength);
  showShapes(Math.sqrt(usual.width * usual.height));
  advanced.start(told, (name) => OWN.has(name));
  places.start();
  start_picture.start();
  for (const name of ["width", "height"]) field(name).addEventListener("change", arrange);
  for (const name of [...PLAIN, "pulid_id_weight", "strength"]) {
    // an empty field is the usual value; it is shown, not only sent
    if (name !== "prompt") field(name).addEventListener("change", (event) => { if (!event.target.value.trim()) setValue(name, usual[name]); });
  }
  by("form").addEventListener("input", () => wrong(""));
  by("init-canvas").addEventListener("started", (event) => fit(event.detail));
  by("init-canvas").addEventListener("redrawn", arrange);
}

function field(name) { return by("form").elements.namedItem(name); }

// A number and its slider, which shows what of it lies in its range.
function slide(name, slider, value) {
  by(name).addEventListener("input", () => { by(slider).value = by(name).value; });
  by(slider).addEventListener("input", () => { by(name).value = Number(by(slider).value).toFixed(2); });
  by(name).value = by(slider).value = value;
}

function setValue(name, value) {
  field(name).value = value;
  field(name).dispatchEvent(new Event("input", { bubbles: true }));
}

// ------------------------------------------------------------------------------------------ shapes

function showShapes(side) {
  by("shapes").replaceChildren(...SHAPES.map(([name, across, down]) => {
    const [width, height] = [side * Math.sqrt(across / down), side * Math.sqrt(down / across)].map(aligned);
    const picture = element("i");
    picture.style.width = `${22 * Math.sqrt(across / down)}px`;
    picture.style.height = `${22 * Math.sqrt(down / across)}px`;
    return element("button", { type: "button", "aria-label": `${name}, ${width} by ${height}`, onclick: () => resize(width, height) }, picture, name);
  }));
  [...by("shapes").children].forEach((button, place) => {
    const [, across, down] = SHAPES[place];
    button.dataset.size = [side * Math.sqrt(across / down), side * Math.sqrt(down / across)].map(aligned).join("x");
  });
}

function aligned(value) { return Math.max(UNIT, Math.round(value / UNIT) * UNIT); }

function resize(width, height) {
  field("width").value = width;
  field("height").value = height;
  wrong("");
  arrange();
}

// The shape of the picture to start from, as large as the server takes.
function fit([width, height]) {
  const share = Math.min(1, Math.sqrt(capabilities.limits.megapixels * 1e6 / (width * height)));
  const down = (value) => Math.max(UNIT, Math.floor(value * share / UNIT) * UNIT);
  resize(down(width), down(height));
}

export function arrange() {
  const [width, height] = [Number(field("width").value), Number(field("height").value)];
  for (const shape of by("shapes").children) shape.setAttribute("aria-pressed", shape.dataset.size === `${width}x${height}`);
  const faces = start_picture.faces();
  // what a picture that is there leaves no room for
  for (const input of [...OF_A_PICTURE.map(field), ...by("shapes").children]) input.disabled = Boolean(faces);
  if (faces) places.arrange(...faces.size, faces.image);
  else places.arrange(width, height);
}

// -------------------------------------------------------------------------------------- the request

// [fields, files] of a request for what the page says.
export async function request() {
  const [fields, files] = advanced.changed();
  for (const name of PLAIN) {
    if (field(name).value.trim() !== "") fields[name] = field(name).value;
  }
  const there = people.chosen();
  const weight = field("pulid_id_weight").value;
  if (there.length) {
    fields.pulid_id_weight = weight;
  } else {
    delete fields.id_start_step;
  }
  const faces = start_picture.faces();
  if (faces) {
    for (const name of OF_A_PICTURE) delete fields[name];
  }
  if (there.length === 1 && !(faces && isPlaced(there[0], faces.size))) fields.pulid_id_embedding = there[0].name;
  else if (there.length) fields.identity = there.map((person) => `${person.name},weight=${person.weight},box=${person.box.join(",")}`);
  const [started, sent] = await start_picture.request();
  return [{ ...fields, ...started }, { ...files, ...sent }];
}

// Whether a person's box leaves something of the picture out.
function isPlaced({ box }, size) { return Boolean(box) && box.join() !== [0, 0, ...size].join(); }

export function drawn() {
  if (!by("seed-lock").checked) field("seed").value = Math.floor(Math.random() * 2 ** 31);
}

export function wrong(sentence) {
  if (!sentence && !by("form-error").textContent) return;
  errors.wrong("form-error", sentence, (name) => {
    const input = by(INPUTS[name]) ?? field(name);
    return input instanceof HTMLElement && !input.hidden ? input : null;
  });
}

// ------------------------------------------------------------------------------------------ restore

// Fields of a request, as a job has them or as a picture's metadata comes to. before: the picture that was
// started from, if this page still has it. missing: what cannot come back, in words. faces: whether only the faces
// of a picture were redrawn.
export async function restore(told, { before = null, missing = [], faces = false } = {}) {
  const lost = [...missing];
  wrong("");
  advanced.reset();
  start_picture.remove();
  start_picture.redraw(told.detail_img || faces ? "faces" : "picture");
  for (const name of [...PLAIN, "pulid_id_weight", "strength"]) setValue(name, told[name] ?? usual[name]);
  for (const [name, value] of Object.entries(told)) {
    if (!OWN.has(name) && value !== null) advanced.set(name, value);
  }
  by("seed-lock").checked = true;
  if (before) await start_picture.startAgain(before);
  else if (told.init_img || told.detail_img) lost.push("the picture that it started from is not kept: choose it again");
  for (const name of ["ref_image", "control_image", "reference"]) {
    if (told[name]) lost.push(`${name}: is not kept, choose it again`);
  }
  resize(told.width ?? usual.width, told.height ?? usual.height);
  // once the picture has its size: boxes grow with it
  lost.push(...restorePeople(told));
  by("form-note").textContent = ["The settings are restored.", ...lost].join(" ");
  by("what").scrollIntoView();
  by("prompt").focus({ preventScroll: true });
}

function restorePeople(told) {
  const named = [told.pulid_id_embedding, ...[told.identity ?? []].flat()].filter(Boolean).map(parts);
  const lost = [];
  for (const person of people.people) {
    const one = named.find(({ name }) => name === person.name);
    person.chosen = Boolean(one);
    if (one) Object.assign(person, { weight: one.weight ?? 1, box: one.box ?? null });
  }
  for (const { name } of named) {
    if (!people.names().includes(name)) lost.push(`${name} is not among the people here: add the .pulidembd`);
  }
  people.show();
  return lost;
}

// "me.pulidembd,weight=0.8,box=0,0,96,96"
function parts(text) {
  const [file, ...rest] = text.split(/,(?=[a-z]+=)/);
  const told = Object.fromEntries(rest.map((part) => part.split("=")));
  return { name: file.replace(/\.pulidembd$/, ""), weight: told.weight, box: told.box?.split(",").map(Number) };
}

export async function restoreFile(file) {
  by("restore-error").textContent = "";
  try {
    const { fields, missing, settings } = await post("/v1/parameters", {}, { "picture.png": file });
    await restore(fields, { missing, faces: Boolean(settings.picture) });
  } catch (error) {
    by("restore-error").textContent = `${file.name}: ${error.message}`;
  }
  by("restore").value = "";
}
