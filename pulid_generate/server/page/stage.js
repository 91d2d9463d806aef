// A picture on a canvas, with frames to click, a box to drag and a mask to paint. All coordinates are
// pixels of the picture itself, upright, whatever size it is shown in.
//
// tool: "choose" a frame, drag a "box", "brush" and "erase" a mask, "place" the frames themselves.

const STEPS = { ArrowRight: [1, 0], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowUp: [0, -1] };
// of the window: how near an edge a press takes hold of it, by a mouse and by a finger
const REACH = { mouse: 8, pen: 10, touch: 18 };
const LABEL = 14;
const PAINT = "rgba(220, 40, 40, .55)";

export class Stage {
  constructor(canvas, { onchange = () => {} } = {}) {
    this.canvas = canvas;
    this.onchange = onchange;
    this.tool = "choose";
    this.brush = 30;
    this.showsMask = true;
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.up());
    canvas.addEventListener("pointercancel", () => this.up());
    canvas.addEventListener("pointerleave", () => { if (!this.held) this.point(null); });
    canvas.addEventListener("blur", () => this.point(null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  clear() {
    this.image = null;
    this.size = [0, 0];
    this.frames = [];   // [x, y, width, height]
    this.labels = [];
    this.chosen = 0;
    this.box = null;    // by hand, [x, y, width, height]
    this.mask = null;   // canvas of the picture's size, painted where alpha is above 0
    this.held = null;   // what a press took hold of
    this.pointer = null; // where the brush is
  }

  // marks: what was chosen, boxed and painted on it before
  show(image, width, height, { chosen = 0, box = null, mask = null } = {}) {
    this.clear();
    this.image = image;
    this.size = [width, height];
    Object.assign(this, { chosen, box, mask });
    this.draw();
  }

  get marks() { return { chosen: this.chosen, box: this.box, mask: this.mask }; }

  get paints() { return this.tool === "brush" || this.tool === "erase"; }

  // pixels of the picture in one of the window
  get scale() { return this.size[0] / this.canvas.getBoundingClientRect().width; }

  // ---------------------------------------------------------------------------------- the pointer

  at(event) {
    const shown = this.canvas.getBoundingClientRect();
    const [width, height] = this.size;
    return [
      inside((event.clientX - shown.left) * width / shown.width, 0, width),
      inside((event.clientY - shown.top) * height / shown.height, 0, height),
    ];
  }

  down(event) {
    if (!this.size[0] || event.button > 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const from = this.at(event);
    const reach = (REACH[event.pointerType] ?? REACH.mouse) * this.scale;
    this.held = { from, grip: "new" };
    if (this.tool === "choose") this.choose(from);
    if (this.paints) this.paint(from, from);
    if (this.tool === "box") this.hold(this.box, from, reach);
    if (this.tool === "place") this.hold(this.frames[this.chosen], from, reach);
  }

  hold(box, from, reach) {
    if (!box) return;
    const grip = gripOf(box, from, reach, this.tool === "place" ? LABEL * 1.4 * this.scale : 0);
    if (grip) this.held = { from, grip, box };
  }

  move(event) {
    const to = this.at(event);
    if (this.paints) this.point(to);
    if (!this.held) return;
    const { from, grip, box } = this.held;
    if (this.paints) {
      this.paint(from, to);
      this.held.from = to;
    }
    if (this.tool !== "box" && this.tool !== "place") return;
    this.held.isMoved = true;
    const made = grip === "new" ? between(from, to) : dragged(box, grip, from, to);
    if (made[2] > 0 && made[3] > 0) this.change(made, grip === "move");
  }

  up() {
    if (!this.held) return;
    const { from, grip, isMoved } = this.held;
    this.held = null;
    // a click, not a drag: the person whose frame it is
    if (this.tool === "place" && grip === "new" && !isMoved) this.choose(from);
    this.onchange();
  }

  point(to) {
    this.pointer = to;
    if (this.paints) this.draw();
  }

  choose([x, y]) {
    const found = this.frames.findIndex(([left, top, width, height]) => (
      x >= left && y >= top && x <= left + width && y <= top + height));
    if (found < 0) return;
    this.chosen = found;
    if (this.tool === "choose") this.box = null;
    this.draw();
  }

  // --------------------------------------------------------------------------------- the keyboard

  key(event) {
    if (!this.size[0]) return;
    const step = STEPS[event.key];
    const enters = event.key === "Enter" || event.key === " ";
    if (!step && !enters) return;
    if (this.tool === "choose") this.next(step ? step[0] + step[1] : 0);
    else if (this.paints) this.paintByKey(step, event.shiftKey);
    else if (step) this.nudge(step, event);
    else if (this.tool === "place") this.next(1);
    else if (!this.box) this.change(this.middle(), false);
    event.preventDefault();
    this.onchange();
  }

  // another frame
  next(step) {
    if (!this.frames.length) return;
    this.chosen = (this.chosen + step + this.frames.length) % this.frames.length;
    if (this.tool === "choose") this.box = null;
    this.draw();
  }

  // a pixel of the picture, with Shift ten; with Alt the box grows or shrinks at its right and lower edges
  nudge([right, down], event) {
    const box = this.tool === "place" ? this.frames[this.chosen] : this.box;
    if (!box) return;
    const far = event.shiftKey ? 10 : 1;
    const [left, top, width, height] = box;
    if (event.altKey) this.change([left, top, width + right * far, height + down * far], false);
    else this.change([left + right * far, top + down * far, width, height], true);
  }

  paintByKey(step, isFar) {
    const [width, height] = this.size;
    const [x, y] = this.pointer ?? [width / 2, height / 2];
    if (!step) {
      this.paint([x, y], [x, y]);
      return;
    }
    const by = this.brush * this.scale * (isFar ? 1 : 0.25);
    this.point([inside(x + step[0] * by, 0, width), inside(y + step[1] * by, 0, height)]);
  }

  middle() {
    const [width, height] = this.size;
    return [width / 4, height / 4, width / 2, height / 2];
  }

  // ------------------------------------------------------------------------------ what is marked

  // The box, or the chosen frame while frames are placed: whole pixels inside the picture, one at least.
  // isMoved: it keeps its size at the picture's border.
  change(box, isMoved) {
    const [width, height] = this.size;
    const [x, y, across, down] = box.map(Math.round);
    const wide = inside(across, 1, isMoved ? width : width - inside(x, 0, width - 1));
    const tall = inside(down, 1, isMoved ? height : height - inside(y, 0, height - 1));
    const made = [inside(x, 0, width - wide), inside(y, 0, height - tall), wide, tall];
    if (this.tool === "place") this.frames[this.chosen] = made;
    else this.box = made;
    this.draw();
  }

  setBox(box) {
    this.change(box, true);
  }

  paint(from, to) {
    const [width, height] = this.size;
    if (this.mask === null) this.mask = new OffscreenCanvas(width, height);
    const context = this.mask.getContext("2d");
    context.globalCompositeOperation = this.tool === "erase" ? "destination-out" : "source-over";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = this.brush * this.scale;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    // a line to where it begins is no line, and leaves nothing
    context.beginPath();
    context.arc(...to, context.lineWidth / 2, 0, 2 * Math.PI);
    context.fill();
    this.draw();
  }

  // ---------------------------------------------------------------------------------- the drawing

  draw() {
    const [width, height] = this.size;
    if (!width || !this.canvas.clientWidth) return;
    const shown = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    const scale = shown / width;
    if (this.canvas.width !== shown || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = shown;
      this.canvas.height = Math.round(height * scale);
    }
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.image) context.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    if (this.mask && this.showsMask) this.drawMask(context);
    const colour = getComputedStyle(this.canvas).getPropertyValue("--frame");
    const places = this.tool === "place";
    this.frames.forEach((frame, place) => {
      const isChosen = place === this.chosen && this.box === null;
      const label = this.labels[place] ?? String(place + 1);
      drawFrame(context, scaled(frame, scale), isChosen ? colour : "#ffffff", isChosen, label);
      if (isChosen && places) drawHandles(context, scaled(frame, scale), colour);
    });
    if (this.box) {
      drawFrame(context, scaled(this.box, scale), colour, true, "");
      if (this.tool === "box") drawHandles(context, scaled(this.box, scale), colour);
    }
    if (this.pointer && this.paints) this.drawBrush(context, scale);
  }

  drawMask(context) {
    const tint = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const over = tint.getContext("2d");
    over.drawImage(this.mask, 0, 0, tint.width, tint.height);
    over.globalCompositeOperation = "source-in";
    over.fillStyle = PAINT;
    over.fillRect(0, 0, tint.width, tint.height);
    context.drawImage(tint, 0, 0);
  }

  drawBrush(context, scale) {
    const [x, y] = this.pointer.map((value) => value * scale);
    for (const [style, width] of [["rgba(0, 0, 0, .7)", 3], ["#ffffff", 1]]) {
      context.beginPath();
      context.arc(x, y, this.brush * devicePixelRatio / 2, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = width * devicePixelRatio;
      context.stroke();
    }
  }
}

// ------------------------------------------------------------------------------------------ boxes

function inside(value, least, most) { return Math.min(Math.max(value, least), most); }

function scaled(frame, scale) { return frame.map((value) => value * scale); }

// The box between two points, whose corners are whole pixels.
function between(from, to) {
  const [left, right] = [from[0], to[0]].sort((a, b) => a - b).map(Math.round);
  const [top, bottom] = [from[1], to[1]].sort((a, b) => a - b).map(Math.round);
  return [left, top, right - left, bottom - top];
}

// What a press at a point takes hold of: "move", names of edges, or null for nothing.
// label: height of the label at the upper left corner by which a box is moved; 0: by its inside.
function gripOf([left, top, width, height], [x, y], reach, label) {
  const [right, bottom] = [left + width, top + height];
  if (x < left - reach || x > right + reach || y < top - reach || y > bottom + reach) return null;
  const near = Math.min(reach, width / 3, height / 3);
  const edges = [];
  if (x <= left + near) edges.push("left");
  else if (x >= right - near) edges.push("right");
  if (y <= top + near) edges.push("top");
  else if (y >= bottom - near) edges.push("bottom");
  if (edges.length) return edges;
  if (label && y > top + label) return null;
  return "move";
}

function dragged([left, top, width, height], grip, from, to) {
  const [across, down] = [to[0] - from[0], to[1] - from[1]];
  if (grip === "move") return [left + across, top + down, width, height];
  let [right, bottom] = [left + width, top + height];
  if (grip.includes("left")) left = Math.min(left + across, right - 1);
  if (grip.includes("right")) right = Math.max(right + across, left + 1);
  if (grip.includes("top")) top = Math.min(top + down, bottom - 1);
  if (grip.includes("bottom")) bottom = Math.max(bottom + down, top + 1);
  return between([left, top], [right, bottom]);
}

function drawFrame(context, [left, top, width, height], colour, isChosen, label) {
  context.lineWidth = (isChosen ? 4 : 2) * devicePixelRatio;
  context.strokeStyle = "rgba(0, 0, 0, .6)";
  context.strokeRect(left, top, width, height);
  context.lineWidth = (isChosen ? 3 : 1.5) * devicePixelRatio;
  context.strokeStyle = colour;
  context.strokeRect(left, top, width, height);
  if (!label) return;
  const size = LABEL * devicePixelRatio;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const room = context.measureText(label).width + size * 0.6;
  context.fillStyle = colour;
  context.fillRect(left, top, room, size * 1.4);
  context.fillStyle = "#101418";
  context.fillText(label, left + size * 0.3, top + size * 1.05);
}

function drawHandles(context, [left, top, width, height], colour) {
  const side = 9 * devicePixelRatio;
  context.lineWidth = devicePixelRatio;
  context.strokeStyle = "rgba(0, 0, 0, .7)";
  context.fillStyle = colour;
  for (const x of [left, left + width / 2, left + width]) {
    for (const y of [top, top + height / 2, top + height]) {
      if (x === left + width / 2 && y === top + height / 2) continue;
      context.fillRect(x - side / 2, y - side / 2, side, side);
      context.strokeRect(x - side / 2, y - side / 2, side, side);
    }
  }
}

// A painted mask as PNG of its picture's size: white and black, swapped if painted means black.
export function maskPng(mask, paintedIsWhite) {
  const made = new OffscreenCanvas(mask.width, mask.height);
  const context = made.getContext("2d");
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = (pixels.data[at + 3] > 127) === paintedIsWhite ? 255 : 0;
    pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = value;
    pixels.data[at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return made.convertToBlob({ type: "image/png" });
}

// A file as an upright picture.
export async function load(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}
