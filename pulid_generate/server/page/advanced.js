// Every option of a generation that the page has no place of its own for, from the server's fields, which are
// made from the command line's tables.

import { by, element } from "./api.js";

const FILES = new Set(["ref_image", "control_image", "reference"]);
// of a union of ControlNets, a choice for each union of the server
const MODE = "control_mode";
// one value, or none
const SWITCHES = { ad_model: "antelopev2" };
const SEPARATOR = ";";
// heading of a group -> what the server has for it
const NOTES = {
  ControlNet: () => {
    if (!told.control_nets.length) return "This server was started without --control-net.";
    const names = told.control_nets.map(({ name }) => name);
    if (names.length === 1) return `This server has ${names[0]}.`;
    return `This server has ${names.join(", ")}: one picture and one number for all of them, or one for each, in this order.`;
  },
  "Reference pictures (FLUX.1 Kontext)": () => (told.kontext ? "" : "This server's Flux is no FLUX.1 Kontext: it takes no reference pictures."),
};
let told;

export function start(capabilities, isOwn) {
  told = capabilities;
  const groups = new Map();
  for (const [name, field] of Object.entries(told.fields)) {
    if (isOwn(name)) continue;
    const group = field["x-group"] ?? "Output";
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(...row(name, field));
  }
  for (const [group, rows] of groups) {
    const part = element("details", { class: "group" }, element("summary", {}, group, element("span", { class: "changed" })));
    const note = NOTES[group]?.() ?? "";
    if (note) part.append(element("p", { class: "quiet" }, note));
    part.append(element("div", { class: "grid" }, ...rows));
    by("advanced").append(part);
  }
  by("advanced").addEventListener("input", count);
}

function row(name, field) {
  if (name === MODE && told.control_nets.length) return modes(field);
  return labelled(`field-${name}`, name.replaceAll("_", " "), named(control(name, field), name), field.description);
}

function named(input, name) {
  input.name = name;
  input.dataset.before = value(input);
  return input;
}

function labelled(id, words, input, description) {
  input.id = id;
  input.setAttribute("aria-describedby", `${id}-help`);
  const parts = input.type === "file" ? [input, shown(input)] : [input];
  return [element("label", { for: id }, words), element("span", {}, ...parts, element("small", { id: `${id}-help` }, description))];
}

// A choice for each union, so that no mode need be spelled.
function modes(field) {
  const usual = told.defaults[MODE] ?? [];
  const unions = told.control_nets.map((net, place) => ({ ...net, place })).filter((net) => net.modes.length);
  return unions.flatMap(({ name, modes, place }, count) => {
    const made = element("select", { "data-place": place }, ...modes.map((mode) => element("option", { value: mode }, mode)));
    made.value = usual[place] ?? usual[0] ?? modes[0];
    if (!made.value) made.value = modes[0];
    const words = told.control_nets.length === 1 ? "control mode" : `control mode of ${name}`;
    return labelled(count ? `field-${MODE}-${place}` : `field-${MODE}`, words, named(made, MODE), field.description);
  });
}

function unions() { return by("advanced").querySelectorAll("select[data-place]"); }

// The chosen pictures of a field, small, and a way to leave them out again.
function shown(input) {
  const list = element("ul", { class: "thumbnails", "aria-label": `Pictures of ${input.name.replaceAll("_", " ")}` });
  input.addEventListener("input", () => show(input, list));
  return list;
}

function show(input, list = input.nextElementSibling) {
  for (const image of list.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  list.replaceChildren(...[...input.files].map((file, place) => element("li", {},
    element("img", { src: URL.createObjectURL(file), alt: file.name, title: file.name }),
    element("button", { type: "button", class: "small", "aria-label": `Leave out ${file.name}`, onclick: () => leaveOut(input, place) }, "×"))));
}

function leaveOut(input, left) {
  const kept = new DataTransfer();
  [...input.files].forEach((file, place) => { if (place !== left) kept.items.add(file); });
  input.files = kept.files;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  input.focus();
}

function control(name, field) {
  if (FILES.has(name)) return element("input", { type: "file", accept: "image/*", multiple: true });
  const usual = told.defaults[name] ?? field.default ?? "";
  if (name in SWITCHES) return element("input", { type: "checkbox", checked: Boolean(usual) });
  if (field.type === "boolean") return element("input", { type: "checkbox", checked: usual });
  const words = field.enum ?? told.choices[name];
  if (words) {
    const all = words.includes(usual) ? words : [usual, ...words];
    const made = element("select", {}, ...all.map((word) => element("option", { value: word }, word || "as usual")));
    made.value = usual;
    return made;
  }
  const isNumber = ["integer", "number"].includes(field.type);
  const isOne = name.startsWith("control_") && told.control_nets.length === 1;
  const isSeveral = field.type === "array" && !isOne;
  const hints = isSeveral ? `several: with ${SEPARATOR} between` : null;
  const shownUsual = Array.isArray(usual) ? usual.join(`${SEPARATOR} `) : usual;
  return element("input", { value: shownUsual, inputmode: isNumber ? "decimal" : null, size: isNumber ? 8 : isSeveral ? 26 : null, placeholder: hints });
}

function inputs() { return by("advanced").querySelectorAll("input, select"); }

function value(input) {
  if (input.type === "file") return String(input.files.length);
  return input.type === "checkbox" ? String(input.checked) : input.value;
}

// How many differ from what they were, beside each group's name.
function count() {
  let all = 0;
  for (const group of by("advanced").children) {
    let here = 0;
    for (const input of group.querySelectorAll("input, select")) here += value(input) !== input.dataset.before;
    group.querySelector(".changed").textContent = here ? ` (${here} changed)` : "";
    all += here;
  }
  by("advanced-part").querySelector("summary").textContent = all ? `Advanced (${all} changed)` : "Advanced";
}

// [fields, files] of what was changed; what is left as it was is not sent.
export function changed() {
  const [fields, files] = [{}, {}];
  for (const input of inputs()) {
    const { name } = input;
    if (value(input) === input.dataset.before || "place" in input.dataset) continue;
    if (input.type === "file") {
      fields[name] = [...input.files].map((file, place) => {
        const stored = `${name}${place}.${/\.(\w+)$/.exec(file.name)?.[1] ?? "png"}`;
        files[stored] = file;
        return stored;
      });
    } else if (name in SWITCHES) {
      if (input.checked) fields[name] = SWITCHES[name];
    } else if (told.fields[name].type === "array") {
      fields[name] = input.value.split(SEPARATOR).map((part) => part.trim()).filter(Boolean);
    } else {
      fields[name] = value(input);
    }
  }
  if (fields.control_image && unions().length) {
    fields[MODE] = told.control_nets.map(() => "");
    for (const input of unions()) fields[MODE][input.dataset.place] = input.value;
  }
  return [fields, files];
}

export function reset() {
  for (const input of inputs()) {
    if (input.type === "file") {
      input.value = "";
      show(input);
    }
    else if (input.type === "checkbox") input.checked = input.dataset.before === "true";
    else input.value = input.dataset.before;
  }
  count();
}

// Whether there is such a field.
export function set(name, given) {
  if (name === MODE && unions().length) return setModes([given].flat());
  const input = by(`field-${name}`);
  if (!input || input.type === "file") return false;
  if (name in SWITCHES) input.checked = Boolean(given);
  else if (input.type === "checkbox") input.checked = given === true || given === "true";
  else input.value = Array.isArray(given) ? given.join(`${SEPARATOR} `) : given;
  count();
  return true;
}

// Of each ControlNet, or one for all.
function setModes(given) {
  for (const input of unions()) {
    const mode = given.length === 1 ? given[0] : given[input.dataset.place];
    const { modes } = told.control_nets[input.dataset.place];
    input.value = modes[Number(mode)] ?? mode ?? input.dataset.before;
  }
  count();
  return true;
}
