// Several values of one option, or of two, with one seed: a table of pictures.

import { by, element, post, watch } from "./api.js";
import { end, isRunning } from "./jobs.js";
import { addToGallery, compareFaces } from "./watch.js";
import * as errors from "./errors.js";
import * as what from "./what.js";

// first in the list; then every other number
const USUAL = ["pulid_id_weight", "id_start_step", "steps", "guidance", "cfg_scale", "seed"];
const NOT = new Set(["batch_count", "width", "height", "face_index"]);
// At most so many pictures: each waits in the queue, which has an end.
const MOST = 24;
const running = new Set();
let isCancelled = false;

export function start({ fields }) {
  const names = Object.keys(fields).filter((name) => ["integer", "number"].includes(fields[name].type) && !NOT.has(name));
  const options = () => [...new Set([...USUAL, ...names])].map((name) => element("option", { value: name }, name.replaceAll("_", " ")));
  by("sweep-option").replaceChildren(...options());
  by("sweep-option-2").replaceChildren(element("option", { value: "" }, "one row"), ...options());
  by("sweep").addEventListener("click", sweep);
  by("sweep-cancel").addEventListener("click", () => {
    isCancelled = true;
    for (const id of running) end(id);
  });
}

// "0, 0.5, .., 2" goes on in steps of the first two.
export function valuesOf(text) {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  const at = parts.indexOf("..");
  if (at < 0) return parts;
  const [first, second, last] = [parts[at - 2], parts[at - 1], parts[at + 1]].map(Number);
  const step = second - first;
  const count = Math.floor((last - second) / step + 1e-6);
  if (!(count >= 1 && count <= 1000)) throw new Error(`values ${text}: expected two numbers, '..' and the last, such as 0, 0.5, .., 2`);
  const between = Array.from({ length: count }, (_, place) => String(Number((second + step * (place + 1)).toFixed(6))));
  return [...parts.slice(0, at), ...between, ...parts.slice(at + 2)];
}

function wrong(sentence) {
  errors.wrong("sweep-error", sentence, (name) => {
    if (name === "values" || name === by("sweep-option").value) return by("sweep-values");
    return name === by("sweep-option-2").value ? by("sweep-values-2") : null;
  });
}

async function sweep() {
  const [across, down] = [by("sweep-option").value, by("sweep-option-2").value];
  isCancelled = false;
  wrong("");
  by("sweep").disabled = true;
  try {
    const columns = valuesOf(by("sweep-values").value);
    const rows = down ? valuesOf(by("sweep-values-2").value) : [null];
    if (across === down) throw new Error("across and down are the same option; choose two");
    const count = columns.length * rows.length;
    if (!count) throw new Error("values: write some, such as 0, 0.5, 1");
    if (count > MOST) throw new Error(`${count} pictures; expected at most ${MOST}`);
    const [fields, files] = await what.request();
    by("sweep-cancel").hidden = false;
    const cells = table(across, columns, down, rows);
    for (const { place, more, name } of cells) {
      if (isCancelled) place.textContent = "cancelled";
      else await drawInto(place, name, { ...fields, batch_count: 1, ...more }, files);
    }
  } catch (error) {
    wrong(error.message);
  }
  by("sweep").disabled = false;
  tidy();
}

function words(name, value) { return `${name.replaceAll("_", " ")} ${value}`; }

// The table's cells, each with the fields that are its own.
function table(across, columns, down, rows) {
  const [head, body] = by("sweep-pictures").children;
  by("sweep-scroll").hidden = false;
  head.replaceChildren(element("tr", {}, ...(down ? [element("td")] : []),
    ...columns.map((value) => element("th", { scope: "col" }, words(across, value)))));
  body.replaceChildren();
  const cells = [];
  for (const row of rows) {
    const line = element("tr", {}, ...(down ? [element("th", { scope: "row" }, words(down, row))] : []));
    body.append(line);
    for (const column of columns) {
      const place = element("td");
      line.append(place);
      const more = down ? { [across]: column, [down]: row } : { [across]: column };
      const name = Object.entries(more).map(([option, value]) => words(option, value)).join(", ");
      cells.push({ place, more, name });
    }
  }
  return cells;
}

// A job whose picture, or why there is none, comes to stand in a cell.
async function drawInto(place, name, fields, files) {
  const bar = element("progress", { max: 1, value: 0, "aria-label": `Steps of ${name}` });
  place.append(bar);
  const { id } = await post("/v1/jobs", fields, files);
  running.add(id);
  watch(id, (job) => {
    bar.max = Math.max(1, job.steps);
    bar.value = job.step;
    if (isRunning(job)) return;
    running.delete(id);
    tidy();
    if (job.state !== "done") {
      place.replaceChildren(element("span", { class: job.error ? "error" : "quiet" }, job.error ?? "cancelled"));
      return;
    }
    const likeness = element("small", { class: "likeness" });
    place.replaceChildren(element("img", { src: job.pictures[0].url, alt: name }), likeness);
    compareFaces(job, 0, likeness);
    addToGallery(job);
  });
}

function tidy() {
  if (!running.size && !by("sweep").disabled) by("sweep-cancel").hidden = true;
}
