// A picture on a canvas, with frames to click, a box to drag and a mask to paint. All coordinates are
// pixels of the picture itself, upright, whatever size it is shown in.

const FRAME = getComputedStyle(document.documentElement).getPropertyValue("--frame") || "#e2a400";

export class Stage {
  constructor(canvas, { onchange = () => {} } = {}) {
    this.canvas = canvas;
    this.onchange = onchange;
    this.tool = "choose";
    this.brush = 30;
    this.paintColour = "rgba(220, 40, 40, .55)";
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.up());
    canvas.addEventListener("pointercancel", () => this.up());
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  clear() {
    this.image = null;
    this.size = [0, 0];
    this.frames = [];   // [x, y, width, height]
    this.labels = [];
    this.chosen = 0;
    this.box = null;    // dragged, [x, y, width, height]
    this.mask = null;   // canvas of the picture's size, painted where alpha is above 0
    this.from = null;
  }

  show(image, width, height) {
    this.clear();
    this.image = image;
    this.size = [width, height];
    this.draw();
  }

  get isPainted() { return this.mask !== null; }

  // PNG of the picture's size: white and black, swapped if painted means black.
  maskPng(paintedIsWhite) {
    const [width, height] = this.size;
    const made = new OffscreenCanvas(width, height);
    const context = made.getContext("2d");
    context.drawImage(this.mask, 0, 0);
    const pixels = context.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const value = (pixels.data[at + 3] > 127) === paintedIsWhite ? 255 : 0;
      pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = value;
      pixels.data[at + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return made.convertToBlob({ type: "image/png" });
  }

  at(event) {
    const shown = this.canvas.getBoundingClientRect();
    const [width, height] = this.size;
    const inside = (value, limit) => Math.min(Math.max(value, 0), limit);
    return [
      inside((event.clientX - shown.left) * width / shown.width, width),
      inside((event.clientY - shown.top) * height / shown.height, height),
    ];
  }

  down(event) {
    if (!this.size[0]) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.from = this.at(event);
    if (this.tool === "choose") this.choose(this.from);
    if (this.tool === "brush") this.paint(this.from, this.from);
  }

  move(event) {
    if (this.from === null) return;
    const to = this.at(event);
    if (this.tool === "brush") {
      this.paint(this.from, to);
      this.from = to;
    }
    if (this.tool === "box") {
      const [left, right] = [this.from[0], to[0]].sort((a, b) => a - b).map(Math.round);
      const [top, bottom] = [this.from[1], to[1]].sort((a, b) => a - b).map(Math.round);
      if (right - left > 0 && bottom - top > 0) this.box = [left, top, right - left, bottom - top];
      this.draw();
    }
  }

  up() {
    if (this.from === null) return;
    this.from = null;
    this.onchange();
  }

  // Arrow keys: another frame while one is chosen, a pixel of the picture while a box is drawn.
  key(event) {
    if (this.tool === "box") {
      this.nudge(event);
      return;
    }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || this.frames.length === 0 || this.tool !== "choose") return;
    event.preventDefault();
    this.chosen = (this.chosen + step + this.frames.length) % this.frames.length;
    this.draw();
    this.onchange();
  }

  // With Shift ten pixels; with Alt the box grows or shrinks at its right and lower edges.
  nudge(event) {
    const by = { ArrowRight: [1, 0], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowUp: [0, -1] }[event.key];
    if (by === undefined || !this.box) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    const [across, down] = by.map((step) => step * far);
    const [left, top, width, height] = this.box;
    if (event.altKey) this.setBox([left, top, width + across, height + down]);
    else this.setBox([left + across, top + down, width, height]);
    this.onchange();
  }

  // Whole pixels inside the picture, at least one of them.
  setBox(box) {
    const [width, height] = this.size;
    const inside = (value, least, most) => Math.min(Math.max(Math.round(value), least), most);
    const across = inside(box[2], 1, width);
    const down = inside(box[3], 1, height);
    this.box = [inside(box[0], 0, width - across), inside(box[1], 0, height - down), across, down];
    this.draw();
  }

  choose([x, y]) {
    const inside = ([left, top, width, height]) => x >= left && y >= top && x <= left + width && y <= top + height;
    const found = this.frames.findIndex(inside);
    if (found >= 0) {
      this.chosen = found;
      this.box = null;
      this.draw();
    }
  }

  paint(from, to) {
    const [width, height] = this.size;
    if (this.mask === null) this.mask = new OffscreenCanvas(width, height);
    const context = this.mask.getContext("2d");
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = this.brush * width / this.canvas.getBoundingClientRect().width;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    this.draw();
  }

  draw() {
    const [width, height] = this.size;
    if (!width) return;
    const shown = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    const scale = shown / width;
    if (this.canvas.width !== shown || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = shown;
      this.canvas.height = Math.round(height * scale);
    }
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.image) context.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    if (this.mask) this.drawMask(context);
    this.frames.forEach((frame, place) => {
      const chosen = place === this.chosen && this.box === null;
      this.drawFrame(context, frame, scale, chosen, this.labels[place] ?? String(place + 1));
    });
    if (this.box) this.drawFrame(context, this.box, scale, true, "");
  }

  drawMask(context) {
    const tint = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const over = tint.getContext("2d");
    over.drawImage(this.mask, 0, 0, tint.width, tint.height);
    over.globalCompositeOperation = "source-in";
    over.fillStyle = this.paintColour;
    over.fillRect(0, 0, tint.width, tint.height);
    context.drawImage(tint, 0, 0);
  }

  drawFrame(context, frame, scale, chosen, label) {
    const [left, top, width, height] = frame.map((value) => value * scale);
    context.lineWidth = (chosen ? 4 : 2) * devicePixelRatio;
    context.strokeStyle = "rgba(0, 0, 0, .6)";
    context.strokeRect(left, top, width, height);
    context.lineWidth = (chosen ? 3 : 1.5) * devicePixelRatio;
    context.strokeStyle = chosen ? FRAME : "#ffffff";
    context.strokeRect(left, top, width, height);
    if (!label) return;
    const size = 14 * devicePixelRatio;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const room = context.measureText(label).width + size * 0.6;
    context.fillStyle = chosen ? FRAME : "#ffffff";
    context.fillRect(left, top, room, size * 1.4);
    context.fillStyle = "#101418";
    context.fillText(label, left + size * 0.3, top + size * 1.05);
  }
}

// A file as an upright picture.
export async function load(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  return image;
}
