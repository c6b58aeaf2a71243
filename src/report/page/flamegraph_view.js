// The frames on the screen: only those that are at least a pixel wide, and of these only those that are scrolled to.

const ROW_HEIGHT = 18;
const WIDTH_MIN = 1;
const TEXT_WIDTH_MIN = 24;
// Hue and saturation by whose code it is: unknown, standard library, installed packages, generated, application,
// native.
const ORIGINS = [
  { name: "unknown", hue: 215, saturation: 8 },
  { name: "standard library", hue: 205, saturation: 60 },
  { name: "packages", hue: 140, saturation: 42 },
  { name: "generated", hue: 275, saturation: 35 },
  { name: "application", hue: 28, saturation: 85 },
  { name: "native", hue: 190, saturation: 25 },
];

class View {
  constructor(model) {
    this.model = model;
    this.chart = document.getElementById("chart");
    this.canvas = document.getElementById("frames");
    this.space = document.getElementById("space");
    this.context = this.canvas.getContext("2d");
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.tree = null;
    this.focus = null;
    this.selected = null;
    this.marked = null;
    this.rootBelow = false;
    this.rows = [];
    this.colors = new Map();
    this.characterWidth = 6.6;
  }

  // Shows another tree; the zoom begins anew.
  show(tree) {
    this.tree = tree;
    this.focus = tree.root;
    this.selected = null;
    this.layOut(true);
  }

  zoom(frame) {
    this.focus = frame;
    this.selected = frame;
    this.layOut(true);
  }

  // Where each frame lies: rows of { frame, x, width } by depth.
  layOut(scrolls) {
    const { metric } = this.tree.options;
    const width = this.chart.clientWidth;
    this.rows = [];
    const place = (frame, x, frameWidth) => {
      (this.rows[frame.depth] ??= []).push({ frame, x, width: frameWidth });
    };
    for (let above = this.focus.parent; above; above = above.parent) place(above, 0, width);
    const open = [{ frame: this.focus, x: 0, width }];
    while (open.length > 0) {
      const { frame, x, width: frameWidth } = open.pop();
      place(frame, x, frameWidth);
      let left = x;
      for (const child of this.tree.children(frame)) {
        const childWidth = (frameWidth * child[metric]) / frame[metric];
        // Children are sorted: all after it are as narrow.
        if (!(childWidth >= WIDTH_MIN)) break;
        open.push({ frame: child, x: left, width: childWidth });
        left += childWidth;
      }
    }
    const height = Math.max(this.rows.length * ROW_HEIGHT, this.chart.clientHeight);
    this.height = height;
    // The canvas itself takes room, too.
    this.space.style.height = Math.max(0, height - this.chart.clientHeight) + "px";
    if (scrolls) this.chart.scrollTop = this.rootBelow ? height : Math.max(0, (this.focus.depth - 3) * ROW_HEIGHT);
    this.draw();
  }

  y(depth) {
    return this.rootBelow ? this.height - (depth + 1) * ROW_HEIGHT : depth * ROW_HEIGHT;
  }

  draw() {
    const scale = window.devicePixelRatio || 1;
    const width = this.chart.clientWidth;
    const height = this.chart.clientHeight;
    const { canvas, context } = this;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = width + "px";
      canvas.style.height = height + "px";
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
    context.textBaseline = "middle";
    this.characterWidth = context.measureText("0000000000").width / 10;
    this.drawnCount = 0;
    for (let depth = 0; depth < this.rows.length; depth += 1) {
      const y = this.y(depth) - this.chart.scrollTop;
      if (y <= -ROW_HEIGHT || y >= height) continue;
      for (const box of this.rows[depth] || []) this.drawBox(box, y);
    }
  }

  drawBox({ frame, x, width }, y) {
    const { context } = this;
    this.drawnCount += 1;
    context.globalAlpha = frame.depth < this.focus.depth ? 0.5 : 1;
    context.fillStyle = this.color(frame);
    const gap = width > 3 ? 1 : 0;
    context.fillRect(x, y, width - gap, ROW_HEIGHT - 1);
    if (frame === this.selected) {
      context.strokeStyle = this.dark.matches ? "#ffffff" : "#000000";
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, Math.max(0, width - gap - 2), ROW_HEIGHT - 3);
    }
    if (width >= TEXT_WIDTH_MIN) {
      const text = this.label(frame);
      const room = Math.floor((width - 6) / this.characterWidth);
      context.fillStyle = this.dark.matches ? "#f5f7fa" : "#14171c";
      // Characters may be wider than most: they are not drawn over the next frame.
      context.save();
      context.beginPath();
      context.rect(x, y, width - gap - 1, ROW_HEIGHT);
      context.clip();
      context.fillText(text.length > room ? text.slice(0, Math.max(1, room - 1)) + "…" : text, x + 3, y + ROW_HEIGHT / 2);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  label(frame) {
    if (frame.location < 0) return "all " + this.weight(frame);
    const { model } = this;
    const file = model.file(frame.location);
    const line = model.line(frame.location);
    const place = file ? "  " + file.slice(file.lastIndexOf("/") + 1) + (line > 0 ? ":" + line : "") : "";
    return model.name(frame.location) + place;
  }

  weight(frame) {
    return this.tree.options.metric === "bytes" ? formatBytes(frame.bytes) : formatCount(frame.blocks) + " allocations";
  }

  color(frame) {
    const { location } = frame;
    if (location >= 0 && this.marked && this.marked[location]) return this.dark.matches ? "#a2368f" : "#f29ae0";
    const known = this.colors.get(location);
    if (known) return known;
    const { hue, saturation } = location < 0 ? { hue: 0, saturation: 0 } : ORIGINS[this.model.origin(location)] || ORIGINS[0];
    let hash = 7;
    const text = location < 0 ? "" : this.model.name(location) + this.model.file(location);
    for (let index = 0; index < text.length; index += 1) hash = (hash * 31 + text.charCodeAt(index)) % 9973;
    const lightness = (this.dark.matches ? 26 : 68) + (hash % 13);
    const color = `hsl(${hue + (hash % 17) - 8} ${saturation}% ${lightness}%)`;
    this.colors.set(location, color);
    return color;
  }

  // The frame at a place in the window, if there is one.
  at(clientX, clientY) {
    const box = this.chart.getBoundingClientRect();
    const x = clientX - box.left;
    const y = clientY - box.top + this.chart.scrollTop;
    const depth = Math.floor((this.rootBelow ? this.height - y : y) / ROW_HEIGHT);
    const hit = (this.rows[depth] || []).find((row) => x >= row.x && x < row.x + row.width);
    return hit ? hit.frame : null;
  }

  // Moves the selection to a neighbour that is drawn.
  move(key) {
    const from = this.selected || this.focus;
    const boxes = this.rows[from.depth] || [];
    const index = boxes.findIndex((box) => box.frame === from);
    const along = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const down = this.rootBelow ? "ArrowUp" : "ArrowDown";
    let to = null;
    if (along) {
      to = [...boxes].sort((a, b) => a.x - b.x).map((box) => box.frame);
      to = to[to.indexOf(from) + along];
    } else if (key === down) {
      const below = (this.rows[from.depth + 1] || []).filter((box) => box.frame.parent === from);
      to = below.length > 0 ? below.reduce((a, b) => (b.width > a.width ? b : a)).frame : null;
    } else if (index >= 0) {
      to = from.parent;
    }
    if (!to) return;
    this.selected = to;
    const y = this.y(to.depth);
    const top = Math.min(this.chart.scrollTop, y);
    this.chart.scrollTop = Math.max(top, y + ROW_HEIGHT - this.chart.clientHeight);
    this.draw();
  }
}
