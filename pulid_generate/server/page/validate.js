// Does an identity hold: many pictures through the queue, then a report.

import { ask, by, element, post } from "./api.js";
import * as errors from "./errors.js";
import * as people from "./people.js";
import * as what from "./what.js";

const LOOK = 1000; // milliseconds between two questions how far it is
const PHOTOGRAPHS = ["reference", "truth", "stranger"];

export async function start() {
  by("validate").addEventListener("click", validate);
  const { validations } = await ask("/v1/validations");
  for (const told of [...validations].reverse()) follow(told);
}

async function validate() {
  wrong("");
  by("validate").disabled = true;
  try {
    follow(await post("/v1/validations", ...(await request())));
  } catch (error) {
    wrong(error.message);
  }
  by("validate").disabled = false;
}

function wrong(sentence) {
  errors.wrong("validate-error", sentence, (name) => by(`validate-${name}`));
}

// The settings of the form, but for what the prompts and the seeds say.
async function request() {
  if (people.chosen().length !== 1) throw new Error("choose one person above");
  const [{ prompt, batch_count, init_img, mask, strength, ...fields }, given] = await what.request();
  const files = {};
  for (const kind of PHOTOGRAPHS) {
    const chosen = [...by(`validate-${kind}`).files];
    fields[kind] = chosen.map((file, place) => {
      const name = `${kind}${place}.${/\.(\w+)$/.exec(file.name)?.[1] ?? "png"}`;
      files[name] = file;
      return name;
    });
    if (!chosen.length) delete fields[kind];
  }
  fields.prompts = by("validate-prompts").value;
  fields.seeds = by("validate-seeds").value;
  return [fields, files];
}

// A line for each: how far it is, its numbers, its report.
function follow(told) {
  const words = element("span", { role: "status" });
  const bar = element("progress", { max: told.count, value: told.drawn, "aria-label": "Pictures of the validation" });
  const end = element("button", { type: "button", "aria-label": "Delete this validation" }, "×");
  const line = element("li", {}, words, bar, end);
  by("validations").prepend(line);
  let gone = false;
  end.addEventListener("click", async () => {
    gone = true;
    line.remove();
    await ask(`/v1/validations/${told.id}`, { method: "DELETE" });
  });
  const show = (now) => {
    bar.value = now.drawn;
    bar.hidden = now.state !== "drawing";
    if (now.state === "drawing") words.textContent = `${now.drawn} of ${now.count} pictures`;
    if (now.state === "comparing") words.textContent = "comparing faces ..";
    if (now.state === "failed") { words.textContent = now.error; words.className = "error"; }
    if (now.state === "done") {
      const { mean_likeness: likeness, closer, copy_paste: copied } = now.measures;
      const number = (value) => (value === null ? "-" : value.toFixed(2));
      words.replaceChildren(element("a", { href: now.report, target: "_blank", rel: "noopener" }, "report"),
        `: mean_likeness ${number(likeness)}, closer than weight 0 in ${Math.round((closer ?? 0) * 100)} %`,
        copied === null ? "" : `, copy_paste ${number(copied)}`);
    }
  };
  const look = async () => {
    if (gone) return;
    try {
      const now = await ask(`/v1/validations/${told.id}`);
      show(now);
      if (["drawing", "comparing"].includes(now.state)) setTimeout(look, LOOK);
    } catch (error) {
      if (!gone) words.textContent = error.message;
    }
  };
  show(told);
  if (["drawing", "comparing"].includes(told.state)) setTimeout(look, LOOK);
}
