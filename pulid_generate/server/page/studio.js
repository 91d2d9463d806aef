// The order in which the page comes alive.

import { ask, by } from "./api.js";
import * as who from "./who.js";
import * as what from "./what.js";
import * as watch from "./watch.js";
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
  await who.start({ onchange: what.arrange, canRead: told.portraits, missing: told.portraits_missing });
  await watch.start();
  await validate.start();
  document.body.dataset.ready = "true";
}

by("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
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

open().catch((error) => {
  by("message").textContent = error.message;
  by("message").hidden = false;
});
