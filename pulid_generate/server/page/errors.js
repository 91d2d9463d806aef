// A sentence of the command line, at the field that it is about.

import { by } from "./api.js";

const MARKED = "data-marked-by";
// where the element of a sentence stands that is about no field
const homes = new Map();

// error: id of the element that holds the sentence; find: a name -> its input, or nothing.
export function wrong(error, sentence, find) {
  const words = by(error);
  if (!homes.has(error)) homes.set(error, [words.parentElement, words.nextElementSibling]);
  clear(error);
  const input = sentence ? namesIn(sentence).map(find).find(Boolean) : null;
  if (input) {
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-errormessage", error);
    input.setAttribute(MARKED, error);
    // after the label's and the field's row, whatever it is made of
    (input.closest(".grid > span, .row, label") ?? input).after(words);
    for (let part = input.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  }
  words.textContent = sentence;
  if (input) input.focus();
  if (sentence) words.scrollIntoView({ block: "nearest" });
}

export function clear(error) {
  for (const input of document.querySelectorAll(`[${MARKED}=${error}]`)) {
    for (const name of ["aria-invalid", "aria-errormessage", MARKED]) input.removeAttribute(name);
  }
  const words = by(error);
  words.textContent = "";
  if (homes.has(error)) {
    const [parent, next] = homes.get(error);
    parent.insertBefore(words, next);
  }
}

// Fields that a sentence speaks of: its first word, then the flags that it names.
function namesIn(sentence) {
  const plain = (word) => word.replace(/^-+/, "").replaceAll("-", "_");
  if (/^\d+x\d+/.test(sentence)) return ["width"];
  // a file that was sent is called by its field: control_image0.png
  const first = sentence.split(/[\s:]/)[0].replace(/\d*\.\w+$/, "");
  const flags = sentence.match(/--[a-z][a-z-]+/g) ?? [];
  return [first, ...flags].map(plain).flatMap((name) => [name, `pulid_${name}`, `pulid_id_${name}`]);
}
