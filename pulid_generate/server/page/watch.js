// Jobs: their place in the queue, steps, previews, pictures; the gallery; several values of one option.

import { ask, by, element, post, watch } from "./api.js";
import { dropsOn } from "./who.js";
import * as what from "./what.js";

const SWEEPABLE = ["pulid_id_weight", "id_start_step", "steps", "guidance", "cfg_scale", "seed"];

export async function start() {
  by("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  by("restore").addEventListener("change", (event) => event.target.files[0] && what.restoreFile(event.target.files[0]));
  dropsOn(by("restore-drop"), (files) => files[0] && what.restoreFile(files[0]));
  by("delete-all").addEventListener("click", deleteAll);
  by("sweep").addEventListener("click", sweep);
  const options = () => SWEEPABLE.map((name) => element("option", { value: name }, name.replaceAll("_", " ")));
  by("sweep-option").replaceChildren(...options());
  by("sweep-option-2").replaceChildren(element("option", { value: "" }, "one row"), ...options());
  const { jobs } = await ask("/v1/jobs");
  for (const job of [...jobs].reverse()) {
    if (job.state === "done") addToGallery(job);
  }
  const running = jobs.filter((job) => ["queued", "drawing"].includes(job.state)).at(-1);
  if (running) follow(running.id);
  else if (jobs[0]?.state === "done") show(jobs[0]);
}

async function draw() {
  what.wrong("");
  by("draw").disabled = true;
  try {
    const told = await post("/v1/jobs", ...(await what.request()));
    follow(told.id);
    what.drawn();
    by("watch").scrollIntoView({ block: "nearest" });
  } catch (error) {
    what.wrong(error.message);
  }
  by("draw").disabled = false;
}

function follow(id) {
  const words = element("p", { id: "state" }, "waiting");
  const bar = element("progress", { max: 1, value: 0, "aria-label": "Steps" });
  const preview = element("img", { class: "preview", alt: "Preview of the picture in work", hidden: true });
  const cancel = element("button", { type: "button", id: "cancel", onclick: () => ask(`/v1/jobs/${id}`, { method: "DELETE" }) }, "Cancel");
  by("current").replaceChildren(words, bar, preview, element("p", {}, cancel));
  watch(id, (job) => {
    const number = job.count > 1 ? `picture ${job.picture} of ${job.count}, ` : "";
    if (job.state === "queued") words.textContent = job.place ? `${job.place} before this one` : "next in the queue";
    if (job.state === "drawing") words.textContent = job.step ? `${number}step ${job.step} of ${job.steps}` : `${number}preparing`;
    bar.max = Math.max(1, job.steps);
    bar.value = job.step;
    if (job.preview) { preview.src = job.preview; preview.hidden = false; }
    if (job.state === "done") { addToGallery(job); show(job); }
    if (["failed", "cancelled"].includes(job.state)) {
      by("current").replaceChildren(element("p", { class: job.state === "failed" ? "error" : "quiet" }, job.error ?? "cancelled"));
    }
  });
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
        element("a", { href: picture.url, download: `${picture.seed}.png` }, "download"),
        element("button", { type: "button", onclick: async () => what.startFrom(await (await fetch(picture.url)).blob()) }, "Edit"))));
  }
  for (const note of job.notes ?? []) parts.push(element("p", { class: "quiet" }, note));
  by("current").replaceChildren(...parts);
  const { asked } = await ask(`/v1/jobs/${job.id}`);
  const buttons = element("p", { class: "row" },
    element("button", { type: "button", onclick: () => what.restore(asked) }, "Restore the settings"));
  const somebody = asked.pulid_id_embedding || asked.identity;
  if (somebody && !asked.init_img && Number(asked.pulid_id_weight ?? 1) !== 0) {
    buttons.append(element("button", { type: "button", id: "compare", onclick: () => compare(job, asked) }, "Compare with weight 0"));
  }
  by("current").append(buttons, element("details", {}, element("summary", {}, "Settings"),
    element("pre", {}, Object.entries(asked).map(([name, value]) => `${name}: ${value}`).join("\n"))));
}

// How like each person the picture is, beside it as soon as it is known.
async function compareFaces(job, number, place) {
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
  try {
    const told = await post("/v1/jobs", { ...asked, pulid_id_weight: 0, seed: job.pictures[0].seed, batch_count: 1 });
    watch(told.id, (other) => {
      if (other.state === "done") slide(job.pictures[0].url, other.pictures[0].url);
      else if (["failed", "cancelled"].includes(other.state)) button.textContent = other.error ?? "cancelled";
    });
  } catch (error) {
    button.textContent = error.message;
  }
}

function slide(withPerson, without) {
  const over = element("img", { src: withPerson, alt: "With the person" });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, class: "wide", "aria-label": "Left: with the person; right: weight 0" });
  const cut = () => { over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; };
  slider.addEventListener("input", cut);
  cut();
  by("compare").replaceWith();
  by("current").prepend(element("div", { id: "comparison" },
    element("div", { class: "compare" }, element("img", { src: without, alt: "Weight 0, the same seed" }), over), slider));
}

// ---------------------------------------------------------------------------------------- the gallery

function addToGallery(job) {
  for (const picture of job.pictures) {
    by("gallery").prepend(element("li", {}, element("button", {
      type: "button", "aria-label": `Picture of seed ${picture.seed}`, onclick: () => show(job),
    }, element("img", { src: picture.url, alt: "", loading: "lazy" }))));
  }
}

async function deleteAll() {
  if (!confirm("Delete all pictures, identities and jobs of this browser?")) return;
  await ask("/v1/session", { method: "DELETE" });
  location.reload();
}

// ------------------------------------------------------------------------------------------- a sweep

// At most so many pictures: each waits in the queue, which has an end.
const MOST_SWEPT = 24;

function valuesIn(id) { return by(id).value.split(",").map((value) => value.trim()).filter(Boolean); }

async function sweep() {
  const [across, down] = [by("sweep-option").value, by("sweep-option-2").value];
  const columns = valuesIn("sweep-values");
  const rows = down ? valuesIn("sweep-values-2") : [null];
  const [head, body] = by("sweep-pictures").children;
  head.replaceChildren();
  body.replaceChildren();
  by("sweep-error").textContent = "";
  by("sweep").disabled = true;
  try {
    if (across === down) throw new Error("across and down are the same option; choose two");
    const count = columns.length * rows.length;
    if (!count) throw new Error("values: write some, such as 0, 0.5, 1");
    if (count > MOST_SWEPT) throw new Error(`${count} pictures; expected at most ${MOST_SWEPT}`);
    const [fields, files] = await what.request();
    const words = (name, value) => `${name.replaceAll("_", " ")} ${value}`;
    by("sweep-pictures").hidden = false;
    head.append(element("tr", {}, ...(down ? [element("td")] : []),
      ...columns.map((value) => element("th", { scope: "col" }, words(across, value)))));
    for (const row of rows) {
      const line = element("tr", {}, ...(down ? [element("th", { scope: "row" }, words(down, row))] : []));
      body.append(line);
      for (const column of columns) {
        const place = element("td");
        line.append(place);
        const more = down ? { [across]: column, [down]: row } : { [across]: column };
        const name = Object.entries(more).map(([option, value]) => words(option, value)).join(", ");
        await drawInto(place, name, { ...fields, batch_count: 1, ...more }, files);
      }
    }
  } catch (error) {
    by("sweep-error").textContent = error.message;
  }
  by("sweep").disabled = false;
}

// A job whose picture, or why there is none, comes to stand in a cell.
async function drawInto(place, name, fields, files) {
  const bar = element("progress", { max: 1, value: 0, "aria-label": `Steps of ${name}` });
  place.append(bar);
  const told = await post("/v1/jobs", fields, files);
  watch(told.id, (job) => {
    bar.max = Math.max(1, job.steps);
    bar.value = job.step;
    if (job.state === "done") {
      place.replaceChildren(element("img", { src: job.pictures[0].url, alt: name }));
      addToGallery(job);
    }
    if (["failed", "cancelled"].includes(job.state)) {
      place.replaceChildren(element("span", { class: "error" }, job.error ?? "cancelled"));
    }
  });
}
