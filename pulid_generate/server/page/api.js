// Requests to the server, and its sentences as errors.

export class Refused extends Error {}

const ENDS = ["done", "failed", "cancelled"];

export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refused("the server does not answer; start it again, then try once more");
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(told.detail || `the server answered ${response.status}`);
  return told;
}

// A form of texts and files; lists become several parts.
export function post(path, fields, files = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) form.append(name, one);
  }
  for (const [name, blob] of Object.entries(files)) form.append("files", blob, name);
  return ask(path, { method: "POST", body: form });
}

// Calls `changed` with each state of a job, the last one when it has ended; `lost` while the server does not
// answer, and the browser tries again.
export function watch(id, changed, lost = () => {}) {
  const events = new EventSource(`/v1/jobs/${id}/events`);
  const hear = (event) => {
    const told = JSON.parse(event.data);
    if (ENDS.includes(told.state)) events.close();
    changed(told);
  };
  for (const state of ["queued", "drawing", ...ENDS]) events.addEventListener(state, hear);
  events.addEventListener("error", async () => {
    if (events.readyState !== EventSource.CLOSED) {
      lost();
      return;
    }
    // refused for good: what has become of it?
    try {
      changed(await ask(`/v1/jobs/${id}`));
    } catch (error) {
      changed({ id, state: "failed", error: error.message, pictures: [], step: 0, steps: 0 });
    }
  });
  return events;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) made.setAttribute(name, String(value));
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const by = (id) => document.getElementById(id);

// A sentence about no place of the page.
export function say(sentence) {
  by("message-text").textContent = sentence;
  by("message").hidden = !sentence;
}

// Files that are dropped on a part of the page.
export function dropsOn(place, take) {
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}
