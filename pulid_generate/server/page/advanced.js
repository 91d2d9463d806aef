// Every option of a generation that the page has no place of its own for, from the server's fields, which are
// made from the command line's tables.

import { by, element } from "./api.js";

const FILES = new Set(["ref_image", "control_image", "reference"]);
// one value, or none
const SWITCHES = { ad_model: "antelopev2" };
const SEPARATOR = ";";
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
    if (group === "ControlNet" && !told.control) {
      part.append(element("p", { class: "quiet" }, "This server was started without --control-net."));
    }
    part.append(element("div", { class: "grid" }, ...rows));
    by("advanced").append(part);
  }
  by("advanced").addEventListener("input", count);
}

function row(name, field) {
  const id = `field-${name}`;
  const input = control(name, field);
  Object.assign(input, { id, name });
  input.dataset.before = value(input);
  input.setAttribute("aria-describedby", `${id}-help`);
  return [element("label", { for: id }, name.replaceAll("_", " ")),
    element("span", {}, input, element("small", { id: `${id}-help` }, field.description))];
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
  const hints = field.type === "array" ? `several: with ${SEPARATOR} between them` : null;
  return element("input", { value: usual, inputmode: isNumber ? "decimal" : null, size: isNumber ? 8 : null, placeholder: hints });
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
    if (value(input) === input.dataset.before) continue;
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
  return [fields, files];
}

export function reset() {
  for (const input of inputs()) {
    if (input.type === "file") input.value = "";
    else if (input.type === "checkbox") input.checked = input.dataset.before === "true";
    else input.value = input.dataset.before;
  }
  count();
}

// Whether there is such a field.
export function set(name, given) {
  const input = by(`field-${name}`);
  if (!input || input.type === "file") return false;
  if (name in SWITCHES) input.checked = Boolean(given);
  else if (input.type === "checkbox") input.checked = given === true || given === "true";
  else input.value = Array.isArray(given) ? given.join(`${SEPARATOR} `) : given;
  count();
  return true;
}
