// Identities that can be named: which of them are in the picture, how strongly, and where.

import { ask, by, element } from "./api.js";

export const people = []; // {name, sha256, weight, saved, chosen, box}
let changed = () => {};

export function start(onchange) {
  changed = onchange;
  return refresh();
}

export function names() { return people.map((person) => person.name); }

export function chosen() { return people.filter((person) => person.chosen); }

export async function refresh(choose) {
  const known = (await ask("/v1/identities")).identities;
  for (const told of known) {
    const there = people.find((person) => person.name === told.name);
    if (there) Object.assign(there, told);
    else people.push({ ...told, weight: 1, chosen: false, box: null });
  }
  for (let place = people.length - 1; place >= 0; place -= 1) {
    if (!known.some(({ name }) => name === people[place].name)) people.splice(place, 1);
  }
  const fresh = people.find((person) => person.name === choose);
  if (fresh) fresh.chosen = true;
  show();
}

export function show() {
  const several = chosen().length > 1;
  by("people").replaceChildren(...people.map((person) => row(person, several)));
  if (!people.length) by("people").append(element("li", { class: "quiet" }, "nobody yet"));
  changed();
}

function row(person, several) {
  const id = `person-${person.name}`;
  const box = element("input", { type: "checkbox", id, checked: person.chosen, onchange: (event) => {
    person.chosen = event.target.checked;
    show();
    by(id).focus();
  } });
  const made = element("li", {}, element("label", {}, box, ` ${person.name}`));
  if (several && person.chosen) {
    made.append(element("input", {
      inputmode: "decimal", size: 5, value: person.weight, "aria-label": `Weight of ${person.name}`, title: `Weight of ${person.name}`,
      onchange: (event) => { person.weight = event.target.value.trim() || 1; },
    }));
  }
  if (person.saved) {
    const address = `/v1/identities/${encodeURIComponent(person.name)}`;
    made.append(
      element("a", { href: address, download: `${person.name}.pulidembd`, "aria-label": `Download ${person.name}` }, "download"),
      element("button", { type: "button", class: "small", "aria-label": `Forget ${person.name}`, onclick: () => forget(address) }, "×"),
    );
  }
  return made;
}

async function forget(address) {
  by("people-error").textContent = "";
  try {
    await ask(address, { method: "DELETE" });
    await refresh();
  } catch (error) {
    by("people-error").textContent = error.message;
  }
}
