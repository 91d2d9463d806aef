// The order in which the page comes alive.

import { Refused, ask, by, say } from "./api.js";
import * as people from "./people.js";
import * as who from "./who.js";
import * as what from "./what.js";
import * as watch from "./watch.js";
import * as sweep from "./sweep.js";
import * as validate from "./validate.js";

async function open() {
  const session = await ask("/v1/session");
  if (session.needs_key) {
    by("key-dialog").showModal();
    return;
  }
  const told = await ask("/v1/capabilities");
  by("model").textContent = `${told.model}${told.pulid ? "" : ", without PuLID"}`;
  what.start(told);
  who.start({ canRead: told.portraits, missing: told.portraits_missing });
  sweep.start(told);
  await Promise.all([people.start(what.arrange), watch.start(), validate.start()]);
  document.body.dataset.ready = "true";
}

by("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  by("key-error").textContent = "";
  try {
    await ask("/v1/session", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key: by("key").value }),
    });
    by("key-dialog").close();
    await open();
  } catch (error) {
    by("key-error").textContent = error.message;
  }
});

by("message-close").addEventListener("click", () => say(""));
// what no place has caught
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof Refused)) return;
  event.preventDefault();
  say(event.reason.message);
});
// a file beside its place would take the page's place
for (const name of ["dragover", "drop"]) {
  addEventListener(name, (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
}
// the next choice by arrow keys
addEventListener("keydown", (event) => {
  const choices = [...(event.target.closest?.("[role=radiogroup]")?.children ?? [])];
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step || !choices.length) return;
  event.preventDefault();
  choices[(choices.indexOf(event.target) + step + choices.length) % choices.length].click();
});
// numbers by arrow keys
addEventListener("keydown", (event) => {
  const step = Number(event.target.dataset?.step) * ({ ArrowUp: 1, ArrowDown: -1 }[event.key] ?? 0);
  if (!step || Number.isNaN(Number(event.target.value))) return;
  event.preventDefault();
  const next = Math.max(0, Number(event.target.value) + step);
  event.target.value = Number.isInteger(step) ? next : next.toFixed(2);
  for (const kind of ["input", "change"]) event.target.dispatchEvent(new Event(kind, { bubbles: true }));
});

open().catch((error) => say(error.message));
