// What comes of jobs: the picture with its likeness and its settings, and the gallery.

import { ask, by, dropsOn, element, post } from "./api.js";
import * as jobs from "./jobs.js";
import * as start_picture from "./start_picture.js";
import * as what from "./what.js";

// fields of pictures that the server does not keep once a job has ended
const PICTURES = ["init_img", "control_image", "ref_image", "reference"];
const shown = new Set(); // ids of jobs in the gallery

export async function start() {
  by("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  by("restore").addEventListener("change", (event) => event.target.files[0] && what.restoreFile(event.target.files[0]));
  dropsOn(by("restore-drop"), (files) => what.restoreFile(files[0]));
  by("delete-all").addEventListener("click", deleteAll);
  const told = await refresh();
  if (told[0]?.state === "done") show(told[0]);
  // another page of this browser may have drawn meanwhile
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}

// The gallery as the server has it, and jobs that are still in work. Answers all jobs, the newest first.
async function refresh() {
  const { jobs: told } = await ask("/v1/jobs");
  const there = new Set(told.map((job) => job.id));
  for (const item of [...by("gallery").children]) {
    if (!there.has(item.dataset.job)) forget(item.dataset.job);
  }
  for (const job of [...told].reverse()) {
    if (job.state === "done") addToGallery(job);
    else if (jobs.isRunning(job)) jobs.follow(job, named(job), finished);
  }
  return told;
}

function named(job) { return job.prompt ? `“${job.prompt.slice(0, 40)}”` : "picture"; }

async function draw() {
  what.wrong("");
  const focused = document.activeElement;
  by("form-note").textContent = "";
  by("draw").disabled = true;
  try {
    const [fields, files] = await what.request();
    const job = await post("/v1/jobs", fields, files);
    jobs.started.set(job.id, start_picture.kept());
    jobs.sent.set(job.id, files);
    jobs.follow(job, named(fields), finished);
    what.drawn();
    by("watch").scrollIntoView({ block: "nearest" });
  } catch (error) {
    what.wrong(error.message);
  }
  by("draw").disabled = false;
  if (document.activeElement === document.body) focused.focus({ preventScroll: true });
}

function finished(job) {
  if (job.state === "done") {
    addToGallery(job);
    show(job);
  } else {
    by("current").querySelector(".ended")?.remove();
    const words = job.state === "failed" ? job.error : "cancelled";
    by("current").prepend(element("p", { class: `ended ${job.state === "failed" ? "error" : "quiet"}`, role: "status" }, words));
  }
}

// ----------------------------------------------------------------------------------------- a picture

async function show(job) {
  const parts = [];
  for (const [number, picture] of job.pictures.entries()) {
    const likeness = element("span", { class: "likeness", role: "status" });
    compareFaces(job, number, likeness);
    parts.push(element("figure", {}, element("img", { src: picture.url, alt: `Picture of seed ${picture.seed}` }),
      element("figcaption", { class: "row" },
        `seed ${picture.seed}, ${picture.seconds.toFixed(1)} s`, likeness,
        element("a", { href: picture.url, download: "", "aria-label": `Download the picture of seed ${picture.seed}` }, "download"),
        element("button", { type: "button", onclick: () => edit(picture) }, "Edit"))));
  }
  for (const note of job.notes ?? []) parts.push(element("p", { class: "quiet" }, note));
  by("current").replaceChildren(...parts);
  const { asked } = await ask(`/v1/jobs/${job.id}`);
  const buttons = element("p", { class: "row" },
    element("button", { type: "button", onclick: () => what.restore(asked, { before: jobs.started.get(job.id) }) }, "Restore the settings"));
  const somebody = asked.pulid_id_embedding || asked.identity;
  const canSend = jobs.sent.has(job.id) || !PICTURES.some((name) => asked[name]);
  if (somebody && canSend && !asked.detail_img && Number(asked.pulid_id_weight ?? 1) !== 0) {
    buttons.append(element("button", { type: "button", id: "compare", onclick: () => compare(job, asked) }, "Compare with weight 0"));
  }
  buttons.append(element("button", { type: "button", class: "danger", onclick: () => remove(job) }, "Delete"));
  by("current").append(buttons, element("details", {}, element("summary", {}, "Settings"), element("dl", { class: "settings" },
    ...Object.entries(asked).flatMap(([name, value]) => [element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, [value].flat().join(", "))]))));
}

async function edit(picture) {
  await start_picture.startFrom(await (await fetch(picture.url)).blob());
  by("edit-part").scrollIntoView();
  by("init-canvas").focus({ preventScroll: true });
}

// How like each person the picture is, beside it as soon as it is known.
export async function compareFaces(job, number, place) {
  try {
    const { people } = await ask(`/v1/jobs/${job.id}/pictures/${number}/likeness`);
    const words = people.map(({ name, likeness, why }) => {
      const whose = people.length > 1 ? ` to ${name}` : "";
      return likeness === null ? `likeness${whose}: ${why}` : `likeness${whose} ${likeness.toFixed(2)}`;
    });
    place.textContent = words.join(", ");
    if (people.length) place.title = "Cosine of the faces, by the network that PuLID is conditioned on: 0 is a stranger, 1 the portrait itself";
  } catch (error) {
    place.textContent = `likeness: ${error.message}`;
  }
}

// The same seed without the person, under a slider.
async function compare(job, asked) {
  const button = by("compare");
  button.disabled = true;
  button.textContent = "drawing with weight 0 ..";
  const failed = (words) => button.replaceWith(element("span", { class: "error", role: "alert" }, words));
  try {
    const fields = { ...asked, pulid_id_weight: 0, seed: job.pictures[0].seed, batch_count: 1 };
    const other = await jobs.drawn(fields, jobs.sent.get(job.id) ?? {}, "the same seed at weight 0");
    if (other.state !== "done") {
      failed(other.error ?? "cancelled");
      return;
    }
    addToGallery(other);
    if (button.isConnected) slide(job.pictures[0].url, other.pictures[0].url);
  } catch (error) {
    failed(error.message);
  }
}

function slide(withPerson, without) {
  const over = element("img", { src: withPerson, alt: "With the person" });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, class: "wide", "aria-label": "Left: with the person; right: weight 0" });
  const cut = () => { over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; };
  slider.addEventListener("input", cut);
  cut();
  by("compare").remove();
  by("current").prepend(element("div", { id: "comparison" },
    element("div", { class: "compare" }, element("img", { src: without, alt: "Weight 0, the same seed" }), over), slider,
    element("p", { class: "row apart quiet" }, element("span", {}, "with the person"), element("span", {}, "weight 0"))));
  slider.focus();
}

// ---------------------------------------------------------------------------------------- the gallery

export function addToGallery(job) {
  if (shown.has(job.id)) return;
  shown.add(job.id);
  for (const picture of job.pictures) {
    const item = element("li", {}, element("button", {
      type: "button", "aria-label": `Picture of seed ${picture.seed}`, onclick: () => {
        show(job);
        by("current").scrollIntoView({ block: "nearest" });
        by("current").focus({ preventScroll: true });
      },
    }, element("img", { src: picture.url, alt: "", loading: "lazy" })));
    item.dataset.job = job.id;
    by("gallery").prepend(item);
  }
}

function forget(id) {
  shown.delete(id);
  for (const item of [...by("gallery").children]) {
    if (item.dataset.job === id) item.remove();
  }
}

async function remove(job) {
  await ask(`/v1/jobs/${job.id}`, { method: "DELETE" });
  forget(job.id);
  by("current").replaceChildren(element("p", { class: "quiet" }, "The picture is deleted."));
  by("current").focus();
}

async function deleteAll() {
  if (!confirm("Delete all pictures, identities and jobs of this browser?")) return;
  await ask("/v1/session", { method: "DELETE" });
  location.reload();
}
