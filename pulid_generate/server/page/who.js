// Who is in the picture: portraits with their faces, boxes and masks, and what the network sees of them.

import { by, dropsOn, element, post } from "./api.js";
import { Stage, load, maskPng } from "./stage.js";
import { names, refresh } from "./people.js";

const portraits = [];    // {name, file, image, faces, marks, strokes, seen}
// milliseconds without a change after which the crop is made
const LOOK_AFTER = 400;
const SEEN = { crop: "the aligned crop", parse: "its parts", face: "what the network sees" };
let active = 0;
let stage;
let timer = 0;
let isLooking = false;

export function start({ canRead, missing }) {
  stage = new Stage(by("portrait"), { onchange: marked });
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
    input.addEventListener("change", () => takeTool(input.value));
  }
  for (const input of boxFields()) input.addEventListener("change", typeBox);
  by("brush-size").addEventListener("input", (event) => { stage.brush = Number(event.target.value); });
  by("clear-marks").addEventListener("click", () => { stage.mask = stage.box = null; stage.draw(); marked(); });
  by("use").addEventListener("click", use);
  by("embedding").addEventListener("change", (event) => addEmbedding(event.target.files[0]));
  for (const name of Object.keys(SEEN)) by(`seen-${name}`).parentElement.addEventListener("click", () => enlarge(name));
}

// ------------------------------------------------------------------------------------- portraits

async function add(files) {
  tell("");
  const before = portraits.length;
  let number = Math.max(0, ...portraits.map((portrait) => portrait.number + 1));
  for (const file of files) {
    try {
      const image = await load(file);
      portraits.push({ name: nameOf(file, number), number, file, image, faces: null, marks: {}, strokes: 0, seen: null });
      number += 1;
    } catch {
      tell(`${file.name}: the browser cannot show this picture; expected a PNG, JPEG or WebP`);
    }
  }
  by("portraits").value = "";
  if (portraits.length > before) await show(portraits.length - 1);
}

// As the server takes it, for its sentences; no two alike.
function nameOf(file, number) {
  const plain = file.name.replace(/[^\w.-]+/g, "_").replace(/\.\.+/g, ".").replace(/^[^a-z0-9]+/i, "").slice(-60) || "portrait.png";
  const name = portraits.some((portrait) => portrait.name === plain) ? `${number}_${plain}` : plain;
  return /\.\w+$/.test(name) ? name : `${name}.png`;
}

async function show(place) {
  active = place;
  const portrait = portraits[place];
  by("portrait-work").hidden = false;
  stage.show(portrait.image, portrait.image.naturalWidth, portrait.image.naturalHeight, portrait.marks);
  showThumbnails();
  showSeen(portrait.seen?.told ?? null);
  if (portrait.faces === null) await find(portrait);
  if (portraits[active] !== portrait) return;
  stage.frames = portrait.faces.map((face) => face.box);
  stage.draw();
  if (!stage.paints) takeTool(stage.box || !stage.frames.length ? "box" : "choose");
  marked();
}

async function find(portrait) {
  busy("looking for faces ..");
  try {
    portrait.faces = (await post("/v1/faces", { portraits: portrait.name }, { [portrait.name]: portrait.file })).faces;
  } catch (error) {
    portrait.faces = [];
    tell(error.message);
  }
  busy("");
}

function showThumbnails() {
  by("thumbnails").replaceChildren(...portraits.map((portrait, place) => element("li", {},
    element("button", {
      type: "button", "aria-current": place === active, "aria-label": `Portrait ${place + 1}`,
      onclick: () => show(place),
    }, element("img", { src: portrait.image.src, alt: "" })),
    element("button", { type: "button", class: "small", "aria-label": `Remove portrait ${place + 1}`, onclick: () => remove(place) }, "×"),
  )));
}

function remove(place) {
  const [gone] = portraits.splice(place, 1);
  URL.revokeObjectURL(gone.image.src);
  tell("");
  if (portraits.length) {
    show(Math.min(active > place ? active - 1 : active, portraits.length - 1));
  } else {
    by("portrait-work").hidden = true;
    by("thumbnails").replaceChildren();
    by("portraits").focus();
  }
}

// --------------------------------------------------------------------- what is meant on a portrait

function takeTool(name) {
  stage.tool = name;
  document.querySelector(`input[name=tool][value=${name}]`).checked = true;
  by("portrait").dataset.tool = name;
  by("brush-part").hidden = !stage.paints;
  stage.draw();
  showChoice();
}

// Something was clicked, boxed or painted.
function marked() {
  const portrait = portraits[active];
  if (!portrait || portrait.faces === null) return;
  if (stage.paints || stage.mask !== portrait.marks.mask) portrait.strokes += 1;
  portrait.marks = stage.marks;
  showChoice();
  clearTimeout(timer);
  timer = setTimeout(look, LOOK_AFTER);
}

function showChoice() {
  const portrait = portraits[active];
  if (!portrait) return;
  by("box-fields").hidden = stage.tool !== "box";
  boxFields().forEach((input, place) => { input.value = stage.box ? stage.box[place] : ""; });
  by("faces").replaceChildren(...stage.frames.map((frame, place) => element("button", {
    type: "button", role: "radio", "aria-checked": place === stage.chosen && !stage.box,
    onclick: () => {
      stage.chosen = place;
      stage.box = null;
      stage.draw();
      marked();
      by("faces").children[place].focus();
    },
  }, `Face ${place + 1}`)));
  if (portrait.faces === null) return;
  if (stage.box) busy(`box ${stage.box.join(", ")} (x, y, width, height)`);
  else if (!stage.frames.length) busy("no face was found: draw a box around it");
  else busy("");
}

function boxFields() { return [0, 1, 2, 3].map((place) => by(`box-${place}`)); }

function typeBox() {
  const numbers = boxFields().map((input) => input.valueAsNumber);
  if (numbers.some(Number.isNaN)) return;
  stage.setBox(numbers);
  marked();
}

// ---------------------------------------------------------------------------------- the requests

// What is meant on one portrait, as fields and files of a request.
async function meant(portrait) {
  const { chosen, box, mask } = portrait.marks;
  const [fields, files] = [{}, { [portrait.name]: portrait.file }];
  if (box) fields.face_box = box.join(",");
  else if (chosen > 0) fields.face_index = chosen;
  if (mask) {
    fields.mask = `mask${portrait.number}.png`;
    files[fields.mask] = await maskPng(mask, false);
  }
  return [fields, files];
}

// All portraits; of several each with what is meant on it.
async function everything() {
  const told = await Promise.all(portraits.map(meant));
  const files = Object.assign({}, ...told.map(([, sent]) => sent));
  if (portraits.length === 1) return [{ portraits: portraits[0].name, ...told[0][0] }, files];
  const entries = told.map(([fields], place) => {
    const { name } = portraits[place];
    return Object.keys(fields).length ? JSON.stringify({ file: name, ...fields }) : name;
  });
  return [{ portraits: entries }, files];
}

// What the network sees, made anew after each change; one request at a time, the newest state last.
async function look() {
  const portrait = portraits[active];
  if (!portrait || isLooking || portrait.faces === null) return;
  if (!portrait.faces.length && !portrait.marks.box) {
    showSeen(null);
    return;
  }
  const { chosen, box } = portrait.marks;
  const key = JSON.stringify([box ?? chosen, portrait.strokes]);
  if (portrait.seen?.key === key) return;
  isLooking = true;
  by("seen").setAttribute("aria-busy", "true");
  tell("");
  try {
    const [fields, files] = await meant(portrait);
    const told = await post("/v1/crops", { portraits: portrait.name, ...fields }, files);
    portrait.seen = { key, told };
  } catch (error) {
    portrait.seen = { key, told: null };
    tell(error.message);
  }
  isLooking = false;
  by("seen").setAttribute("aria-busy", "false");
  if (portraits[active] === portrait) showSeen(portrait.seen.told);
  look();
}

function showSeen(told) {
  for (const [name, words] of Object.entries(SEEN)) {
    const image = by(`seen-${name}`);
    const has = Boolean(told?.[name]);
    image.parentElement.disabled = !has;
    // without a parser there are none
    if (name === "parse") image.parentElement.hidden = Boolean(told) && !has;
    image.alt = has ? words : "";
    if (has) image.src = `data:image/png;base64,${told[name]}`;
    else image.removeAttribute("src");
  }
  by("seen-labels").textContent = told?.portraits[0].labels ?? "";
  // which of several faces is meant is chosen here, not by a flag
  const lines = (told?.portraits ?? []).flatMap((portrait) => [portrait.line, ...portrait.advice])
    .filter((line) => !line.includes("--face-index"));
  by("quality").replaceChildren(...lines.map((line) => element("li", {}, line)));
}

function enlarge(name) {
  by("enlarged").src = by(`seen-${name}`).src;
  by("enlarged").alt = SEEN[name];
  by("enlarged-dialog").showModal();
}

async function use() {
  await working("extracting ..", async () => {
    const [fields, files] = await everything();
    fields.name = by("person-name").value.trim() || freeName();
    const told = await post("/v1/identities", fields, files);
    by("person-name").value = "";
    await refresh(told.saved);
    busy(`${told.saved} is saved and chosen`);
  });
}

async function addEmbedding(file) {
  if (!file) return;
  await working("reading ..", async () => {
    const name = file.name.replace(/\.pulidembd$/, "").replace(/[^\w .-]/g, "_") || freeName();
    const told = await post("/v1/identities", { name, pulid_id_embedding: "sent.pulidembd" }, { "sent.pulidembd": file });
    await refresh(told.saved);
  }, "people-error");
  by("embedding").value = "";
}

async function working(words, work, place = "who-error") {
  const focused = document.activeElement;
  by(place).textContent = "";
  busy(words);
  by("use").disabled = true;
  try {
    await work();
  } catch (error) {
    busy("");
    by(place).textContent = error.message;
    by(place).scrollIntoView({ block: "nearest" });
  }
  by("use").disabled = false;
  // a button that is disabled loses it
  if (document.activeElement === document.body) focused.focus();
}

function tell(text) {
  by("who-error").textContent = text;
  if (text) by("who-error").scrollIntoView({ block: "nearest" });
}

function busy(text) { by("portrait-busy").textContent = text; }

function freeName() {
  let number = 1;
  while (names().includes(`person ${number}`)) number += 1;
  return `person ${number}`;
}
