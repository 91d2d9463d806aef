// Where each of several people is: boxes that are dragged on an outline of the picture, or on the picture whose
// faces are redrawn.

import { by, element } from "./api.js";
import { Stage } from "./stage.js";
import * as people from "./people.js";

let stage;

export function start() {
  stage = new Stage(by("place"), { onchange: keep });
  stage.tool = "place";
}

// For a picture of this size: people without a box stand side by side. image: where it is there already; in it one
// person has a box, too.
export function arrange(width, height, image = null) {
  const there = people.chosen();
  const least = image ? 1 : 2;
  by("place-part").hidden = there.length < least;
  if (there.length < least || !width || !height) return;
  const [before, beforeDown] = stage.size;
  if (before !== width || beforeDown !== height || stage.image !== image) {
    for (const person of there) {
      if (person.box && before) person.box = resized(person.box, width / before, height / beforeDown);
    }
    stage.show(image, width, height, { chosen: stage.chosen });
  }
  there.forEach((person, number) => {
    const share = Math.floor(width / there.length);
    person.box ??= [number * share, 0, share, height];
  });
  stage.frames = there.map((person) => person.box);
  stage.labels = there.map((person) => person.name);
  stage.chosen = Math.min(stage.chosen, there.length - 1);
  stage.draw();
  showChoices(there);
}

function resized([left, top, width, height], across, down) {
  return [left * across, top * down, width * across, height * down].map((value) => Math.max(0, Math.round(value)));
}

function showChoices(there) {
  by("place-choices").replaceChildren(...there.map((person, number) => element("button", {
    type: "button", role: "radio", "aria-checked": number === stage.chosen,
    onclick: () => {
      stage.chosen = number;
      stage.draw();
      showChoices(there);
      by("place-choices").children[number].focus();
    },
  }, `${person.name}: ${person.box.join(", ")}`)));
}

function keep() {
  const there = people.chosen();
  there.forEach((person, number) => { person.box = stage.frames[number] ?? person.box; });
  showChoices(there);
}
