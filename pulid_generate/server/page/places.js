// Where each of several people is: boxes that are dragged on an outline of the picture.

import { by, element } from "./api.js";
import { Stage } from "./stage.js";
import * as people from "./people.js";

let stage;

export function start() {
  stage = new Stage(by("place"), { onchange: keep });
  stage.tool = "place";
}

// For a picture of this size: people without a box stand side by side.
export function arrange(width, height) {
  const there = people.chosen();
  by("place-part").hidden = there.length < 2;
  if (there.length < 2 || !width || !height) return;
  const [before, beforeDown] = stage.size;
  if (before !== width || beforeDown !== height) {
    for (const person of there) {
      if (person.box && before) person.box = resized(person.box, width / before, height / beforeDown);
    }
    stage.show(null, width, height, { chosen: stage.chosen });
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
