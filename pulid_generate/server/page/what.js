// What is drawn: the form, made from the server's fields; the boxes of several people; a picture to start
// from and its mask.

import { by, element, post } from "./api.js";
import { Stage, load } from "./stage.js";
import { people, showPeople } from "./who.js";

const SHAPES = [["1:1", 1, 1], ["3:4", 3, 4], ["4:3", 4, 3], ["9:16", 9, 16], ["16:9", 16, 9]];
// fields that the page has places of its own for
const OWN = new Set(["prompt", "width", "height", "steps", "pulid_id_weight", "id_start_step", "seed", "batch_count",
  "strength", "init_img", "mask", "pulid_id_embedding", "identity", "files", "portraits", "face_index", "face_order",
  "face_at", "face_box", "landmarks"]);
let capabilities;
let place;
let init;
let initFile = null;

export function start(told) {
  capabilities = told;
  const defaults = told.defaults;
  for (const name of ["width", "height", "batch_count", "strength", "id_start_step", "seed"]) {
    field(name).value = defaults[name];
  }
  field("steps").value = defaults.steps ?? (told.dev ? 20 : 4);
  field("steps").max = told.limits.steps;
  field("batch_count").max = told.limits.pictures;
  setWeight(defaults.pulid_id_weight);
  by("weight").addEventListener("input", () => setWeight(by("weight").value));
  showShapes(Math.sqrt(defaults.width * defaults.height));
  showAdvanced();
  for (const name of ["width", "height"]) field(name).addEventListener("change", arrange);
  place = new Stage(by("place"), { onchange: keepBox });
  place.tool = "box";
  init = new Stage(by("init-canvas"));
  init.tool = "brush";
  init.brush = 60;
  by("init").addEventListener("change", (event) => event.target.files[0] && startFrom(event.target.files[0]));
  by("init-brush").addEventListener("input", (event) => { init.brush = Number(event.target.value); });
  by("init-clear").addEventListener("click", () => { init.mask = null; init.draw(); });
  by("init-remove").addEventListener("click", () => { initFile = null; by("init-work").hidden = true; by("init").value = ""; });
  by("form").addEventListener("input", () => wrong(""));
}

function field(name) { return by("form").elements.namedItem(name); }

function setWeight(value) {
  by("weight").value = value;
  by("weight-shown").textContent = Number(value).toFixed(2);
}

function showShapes(side) {
  by("shapes").replaceChildren(...SHAPES.map(([name, across, down]) => {
    const unit = (value) => Math.max(16, Math.round(value / 16) * 16);
    const width = unit(side * Math.sqrt(across / down));
    const height = unit(side * Math.sqrt(down / across));
    const picture = element("i");
    picture.style.width = `${22 * Math.sqrt(across / down)}px`;
    picture.style.height = `${22 * Math.sqrt(down / across)}px`;
    return element("button", { type: "button", "data-size": `${width}x${height}`, onclick: () => {
      field("width").value = width;
      field("height").value = height;
      arrange();
    } }, picture, name);
  }));
}

function showAdvanced() {
  const parts = [];
  for (const [name, told] of Object.entries(capabilities.fields)) {
    if (OWN.has(name)) continue;
    const id = `field-${name}`;
    const shown = name.replaceAll("_", " ");
    let input;
    if (told.enum) {
      input = element("select", { id, name }, ...told.enum.map((word) => element("option", { value: word }, word)));
      input.value = told.default ?? told.enum[0];
    } else if (told.type === "boolean") {
      input = element("input", { id, name, type: "checkbox", checked: told.default });
    } else {
      const numeric = ["integer", "number"].includes(told.type);
      input = element("input", { id, name, type: numeric ? "number" : "text", step: numeric ? "any" : null,
        value: capabilities.defaults[name] ?? "" });
    }
    input.dataset.before = input.type === "checkbox" ? String(input.checked) : input.value;
    input.setAttribute("aria-describedby", `${id}-help`);
    parts.push(element("label", { for: id }, shown),
      element("span", {}, input, element("small", { id: `${id}-help` }, told.description)));
  }
  by("advanced").replaceChildren(...parts);
}

// ------------------------------------------------------------------------------------ where people are

export function arrange() {
  const [width, height] = [Number(field("width").value), Number(field("height").value)];
  for (const shape of by("shapes").children) shape.setAttribute("aria-pressed", shape.dataset.size === `${width}x${height}`);
  const there = people.filter((person) => person.chosen);
  by("place-part").hidden = there.length < 2;
  if (there.length < 2 || !width || !height) return;
  if (place.size[0] !== width || place.size[1] !== height) {
    place.show(null, width, height);
    for (const person of there) person.box = null;
  }
  there.forEach((person, number) => {
    const share = Math.floor(width / there.length);
    person.box ??= [number * share, 0, share, height];
  });
  place.frames = there.map((person) => person.box);
  place.labels = there.map((person) => person.name);
  place.chosen = Math.min(place.chosen, there.length - 1);
  place.box = null;
  place.draw();
  by("place-choices").replaceChildren(...there.map((person, number) => element("button", {
    type: "button", role: "radio", "aria-checked": number === place.chosen,
    onclick: () => { place.chosen = number; arrange(); },
  }, person.name)));
}

function keepBox() {
  const there = people.filter((person) => person.chosen);
  if (place.box && there[place.chosen]) there[place.chosen].box = place.box;
  arrange();
}

export async function startFrom(blob) {
  const image = await load(blob);
  initFile = blob;
  by("edit-part").open = true;
  by("init-work").hidden = false;
  init.show(image, image.naturalWidth, image.naturalHeight);
}

// -------------------------------------------------------------------------------------- the request

// [fields, files] of a request for what the page says.
export async function request() {
  const fields = {};
  const files = {};
  for (const name of ["prompt", "width", "height", "steps", "seed", "batch_count", "id_start_step"]) {
    if (field(name).value !== "") fields[name] = field(name).value;
  }
  for (const input of by("advanced").querySelectorAll("input, select")) {
    const value = input.type === "checkbox" ? String(input.checked) : input.value;
    if (value !== input.dataset.before && value !== "") fields[input.name] = value;
  }
  const there = people.filter((person) => person.chosen);
  const weight = Number(by("weight").value);
  if (there.length === 1) {
    fields.pulid_id_embedding = there[0].name;
    fields.pulid_id_weight = weight * there[0].weight;
  } else if (there.length) {
    fields.identity = there.map((person) => `${person.name},weight=${person.weight},box=${person.box.join(",")}`);
    fields.pulid_id_weight = weight;
  } else {
    delete fields.id_start_step;
  }
  if (initFile) {
    const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[initFile.type] ?? "png";
    files[`init.${ending}`] = initFile;
    fields.init_img = `init.${ending}`;
    fields.strength = field("strength").value;
    if (init.isPainted) {
      files["mask.png"] = await init.maskPng(true);
      fields.mask = "mask.png";
    }
  }
  return [fields, files];
}

export function drawn() {
  if (!by("seed-lock").checked) field("seed").value = Math.floor(Math.random() * 2 ** 31);
}

// The sentence, at the field that it is about.
export function wrong(sentence) {
  for (const input of by("form").querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  by("form-error").textContent = sentence;
  if (!sentence) return;
  const word = sentence.split(/[\s:]/)[0].replaceAll("-", "_");
  const input = [word, `pulid_${word}`].map(field).find((found) => found instanceof HTMLElement);
  if (!input) return;
  input.setAttribute("aria-invalid", "true");
  if (input.closest("details")) input.closest("details").open = true;
  input.focus();
}

// ------------------------------------------------------------------------------------------ restore

// Fields of a job, or what a picture's metadata says.
export function restore(settings) {
  const told = { ...settings };
  const one = told.identity?.sha256 ? told.identity : null;
  if (one) {
    told.pulid_id_weight = one.weight;
    told.id_start_step = one.start_step;
  }
  for (const [name, value] of Object.entries(told)) {
    const input = field(name);
    if (!(input instanceof HTMLElement) || value === null || typeof value === "object") continue;
    if (input.type === "checkbox") input.checked = value === true || value === "true";
    else input.value = value;
  }
  if (told.pulid_id_weight !== undefined) setWeight(told.pulid_id_weight);
  by("seed-lock").checked = true;
  const named = [told.pulid_id_embedding, ...(Array.isArray(told.identity) ? told.identity : [])].filter(Boolean);
  if (named.length) {
    const names = named.map((text) => text.split(",")[0].replace(/\.pulidembd$/, ""));
    for (const person of people) person.chosen = names.includes(person.name);
    if (names.length === 1) for (const person of people) person.weight = 1;
    showPeople();
  }
  arrange();
  by("what").scrollIntoView();
}

export async function restoreFile(file) {
  wrong("");
  try {
    restore((await post("/v1/parameters", {}, { "picture.png": file })).settings);
  } catch (error) {
    wrong(error.message);
  }
}

