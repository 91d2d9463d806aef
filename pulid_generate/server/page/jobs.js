// Jobs in work: their place in the queue, steps, previews, and the button that ends them.

import { ask, by, element, post, watch } from "./api.js";

const RUNNING = ["queued", "drawing"];
const followed = new Set();

// The fields of a job of this page that the server does not keep: what it started from.
export const started = new Map();
// The files of a job of this page, by the names that its fields give them: it can be sent again.
export const sent = new Map();

// A line for a job until it has ended; `ended` gets its last state. name: what it is, in words.
export function follow(job, name, ended) {
  if (followed.has(job.id)) return;
  followed.add(job.id);
  const words = element("span", { class: "state" }, "waiting");
  const bar = element("progress", { max: 1, value: 0, "aria-label": `Steps of ${name}` });
  const preview = element("img", { class: "preview", alt: `Preview of ${name}`, hidden: true });
  const cancel = element("button", { type: "button", class: "cancel", "aria-label": `Cancel ${name}`, onclick: () => {
    cancel.disabled = true;
    words.textContent = "cancelling ..";
    end(job.id);
  } }, "Cancel");
  const line = element("li", {}, element("p", { class: "row" }, element("span", { class: "name" }, name), words, cancel), bar, preview);
  by("jobs").append(line);
  let before = "";
  watch(job.id, (now) => {
    if (now.state !== before) announce(now, name);
    before = now.state;
    if (!cancel.disabled) words.textContent = progress(now);
    bar.max = Math.max(1, now.steps);
    bar.value = now.step;
    if (now.preview) { preview.src = now.preview; preview.hidden = false; }
    if (RUNNING.includes(now.state)) return;
    if (line.contains(document.activeElement) || cancel.disabled) by("current").focus({ preventScroll: true });
    line.remove();
    followed.delete(job.id);
    ended(now);
  }, () => { words.textContent = "the server does not answer; trying again .."; });
}

function progress(job) {
  const number = job.count > 1 ? `picture ${job.picture} of ${job.count}, ` : "";
  if (job.state === "queued") return job.place ? `${job.place} before this one` : "next in the queue";
  return job.step ? `${number}step ${job.step} of ${job.steps}` : `${number}preparing`;
}

// For those who do not see the bar: each state once, not each step.
function announce(job, name) {
  const words = { queued: progress(job), drawing: "is being drawn", done: "is finished", cancelled: "was cancelled", failed: "has failed" };
  by("said").textContent = `${name}: ${words[job.state]}`;
}

export function end(id) {
  return ask(`/v1/jobs/${id}`, { method: "DELETE" });
}

// Draws, and answers the job once it has ended.
export async function drawn(fields, files, name) {
  const job = await post("/v1/jobs", fields, files);
  return new Promise((resolve) => { follow(job, name, resolve); });
}

export function isRunning(job) { return RUNNING.includes(job.state); }
