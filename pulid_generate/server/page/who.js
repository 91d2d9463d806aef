// Who is in the picture: portraits, their faces, boxes and masks; identities that can be named.

import { ask, by, element, post } from "./api.js";
import { Stage, load } from "./stage.js";

const portraits = [];    // {name, file, image, faces}
let active = 0;
let stage;
let changed = () => {};
export const people = []; // {name, weight, saved, chosen, box}

export function start({ onchange, canRead, missing }) {
  changed = onchange;
  stage = new Stage(by("portrait"), { onchange: showChoice });
  if (!canRead) {
    by("portrait-part").hidden = true;
    by("no-portraits").hidden = false;
    by("no-portraits").textContent = missing;
  }
  by("portraits").addEventListener("change", (event) => add([...event.target.files]));
  dropsOn(by("drop"), add);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (files.length && canRead) add(files);
  });
  for (const input of document.querySelectorAll("input[name=tool]")) {
    input.addEventListener("change", () => { stage.tool = input.value; showBox(); });
  }
  for (const input of boxFields()) input.addEventListener("change", typeBox);
  by("brush-size").addEventListener("input", (event) => { stage.brush = Number(event.target.value); });
  by("clear-marks").addEventListener("click", () => { stage.mask = stage.box = null; stage.draw(); showChoice(); });
  by("look").addEventListener("click", look);
  by("use").addEventListener("click", use);
  by("embedding").addEventListener("change", (event) => addEmbedding(event.target.files[0]));
  return refresh();
}

export function dropsOn(place, take) {
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

// ------------------------------------------------------------------------------------- portraits

async function add(files) {
  by("who-error").textContent = "";
  for (const file of files) {
    const ending = /\.(\w+)$/.exec(file.name)?.[1] ?? "png";
    try {
      portraits.push({ name: `portrait${portraits.length}.${ending}`, file, image: await load(file), faces: null });
    } catch {
      by("who-error").textContent = `${file.name}: the browser cannot show this picture`;
    }
  }
  by("portraits").value = "";
  if (portraits.length) await show(portraits.length - 1);
}

async function show(place) {
  active = place;
  const portrait = portraits[place];
  by("portrait-work").hidden = false;
  by("sheet").hidden = true;
  by("quality").replaceChildren();
  stage.show(portrait.image, portrait.image.naturalWidth, portrait.image.naturalHeight);
  showThumbnails();
  if (portrait.faces === null) await find(portrait);
  if (portraits[active] !== portrait) return;
  stage.frames = portrait.faces.map((face) => face.box);
  stage.chosen = portrait.chosen ?? 0;
  stage.draw();
  showChoice();
}

async function find(portrait) {
  busy("looking for faces");
  try {
    portrait.faces = (await post("/v1/faces", { portraits: portrait.name }, { [portrait.name]: portrait.file })).faces;
  } catch (error) {
    portrait.faces = [];
    by("who-error").textContent = error.message;
  }
  busy("");
}

function showThumbnails() {
  by("thumbnails").replaceChildren(...portraits.map((portrait, place) => element("li", {},
    element("button", {
      type: "button", "aria-current": place === active, "aria-label": `Portrait ${place + 1}`,
      onclick: () => show(place),
    }, element("img", { src: portrait.image.src, alt: "" })),
    element("button", { type: "button", "aria-label": `Remove portrait ${place + 1}`, onclick: () => remove(place) }, "×"),
  )));
}

function remove(place) {
  portraits.splice(place, 1);
  if (portraits.length) show(Math.min(active, portraits.length - 1));
  else { by("portrait-work").hidden = true; by("thumbnails").replaceChildren(); }
}

function showChoice() {
  const portrait = portraits[active];
  if (!portrait) return;
  portrait.chosen = stage.chosen;
  showBox();
  const one = portraits.length === 1;
  by("faces").replaceChildren(...(one ? stage.frames : []).map((frame, place) => element("button", {
    type: "button", role: "radio", "aria-checked": place === stage.chosen && !stage.box,
    onclick: () => { stage.chosen = place; stage.box = null; stage.draw(); showChoice(); },
  }, `Face ${place + 1}`)));
  if (!one) busy("the largest face of each portrait is taken");
  else if (stage.box) busy(`box ${stage.box.join(", ")} (x, y, width, height)`);
  else if (!stage.frames.length && portrait.faces) busy("no face was found: draw a box");
  else busy("");
}

function boxFields() { return [0, 1, 2, 3].map((place) => by(`box-${place}`)); }

// The box as numbers, which are exact where a finger is not.
function showBox() {
  by("box-fields").hidden = stage.tool !== "box" || portraits.length !== 1;
  boxFields().forEach((input, place) => { input.value = stage.box ? stage.box[place] : ""; });
}

function typeBox() {
  const numbers = boxFields().map((input) => input.valueAsNumber);
  if (numbers.some(Number.isNaN)) return;
  stage.setBox(numbers);
  showChoice();
}

// What the portraits come to as fields and files of a request.
async function chosen() {
  const files = Object.fromEntries(portraits.map((portrait) => [portrait.name, portrait.file]));
  const fields = { portraits: portraits.map((portrait) => portrait.name) };
  if (portraits.length === 1) {
    if (stage.box) fields.face_box = stage.box.join(",");
    else if (stage.chosen > 0) fields.face_index = stage.chosen;
    if (stage.isPainted) {
      files["mask.png"] = await stage.maskPng(false);
      fields.mask = "mask.png";
    }
  }
  return [fields, files];
}

async function look() {
  await working("looking", async () => {
    const told = await post("/v1/crops", ...(await chosen()));
    by("sheet").src = `data:image/png;base64,${told.sheet}`;
    by("sheet").hidden = false;
    const lines = told.portraits.flatMap((portrait) => [portrait.line, ...portrait.advice]);
    by("quality").replaceChildren(...lines.map((line) => element("li", {}, line)));
  });
}

async function use() {
  await working("extracting", async () => {
    const [fields, files] = await chosen();
    fields.name = by("person-name").value.trim() || freeName();
    const told = await post("/v1/identities", fields, files);
    by("person-name").value = "";
    await refresh(told.saved);
  });
}

async function addEmbedding(file) {
  if (!file) return;
  await working("reading", async () => {
    const name = file.name.replace(/\.pulidembd$/, "").replace(/[^\w .-]/g, "_") || freeName();
    const told = await post("/v1/identities", { name, pulid_id_embedding: "sent.pulidembd" }, { "sent.pulidembd": file });
    await refresh(told.saved);
  });
  by("embedding").value = "";
}

async function working(words, work) {
  by("who-error").textContent = "";
  busy(`${words} ..`);
  for (const name of ["look", "use"]) by(name).disabled = true;
  try {
    await work();
    busy("");
  } catch (error) {
    busy("");
    by("who-error").textContent = error.message;
  }
  for (const name of ["look", "use"]) by(name).disabled = false;
}

function busy(text) { by("portrait-busy").textContent = text; }

function freeName() {
  let number = 1;
  while (people.some((person) => person.name === `person ${number}`)) number += 1;
  return `person ${number}`;
}

// ---------------------------------------------------------------------------------------- people

export async function refresh(choose) {
  const known = (await ask("/v1/identities")).identities;
  for (const { name, saved } of known) {
    const there = people.find((person) => person.name === name);
    if (!there) people.push({ name, saved, weight: 1, chosen: false, box: null });
    else there.saved = saved;
  }
  for (let place = people.length - 1; place >= 0; place -= 1) {
    if (!known.some(({ name }) => name === people[place].name)) people.splice(place, 1);
  }
  const fresh = people.find((person) => person.name === choose);
  if (fresh) fresh.chosen = true;
  showPeople();
}

export function showPeople() {
  by("people").replaceChildren(...people.map((person) => {
    const row = element("li", {}, element("label", {},
      element("input", { type: "checkbox", checked: person.chosen, onchange: (event) => {
        person.chosen = event.target.checked;
        showPeople();
      } }), ` ${person.name}`));
    if (person.chosen) {
      row.append(element("input", {
        type: "number", min: 0, max: 5, step: 0.05, value: person.weight, "aria-label": `Weight of ${person.name}`,
        onchange: (event) => { person.weight = Number(event.target.value); },
      }));
    }
    if (person.saved) {
      const address = `/v1/identities/${encodeURIComponent(person.name)}`;
      row.append(
        element("a", { href: address, download: `${person.name}.pulidembd` }, "download"),
        element("button", { type: "button", "aria-label": `Forget ${person.name}`, onclick: async () => {
          await ask(address, { method: "DELETE" });
          refresh();
        } }, "×"),
      );
    }
    return row;
  }));
  if (!people.length) by("people").append(element("li", { class: "quiet" }, "nobody yet"));
  changed();
}
