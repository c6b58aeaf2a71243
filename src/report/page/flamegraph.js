// The page: controls, keys, and what they do.

const data = JSON.parse(document.getElementById("data").textContent);
const model = new Model(data);
const view = new View(model);
const element = (id) => document.getElementById(id);
let pendingRange = null;
const plot = new Plot(data, (first, last) => {
  // Once a frame at most, however fast the range is dragged.
  if (pendingRange === null) requestAnimationFrame(() => { pendingRange = null; update(); });
  pendingRange = [first, last];
});

// Weighs, builds and shows anew.
function update() {
  model.weigh(Number(element("thread").value), plot.first, plot.last);
  rebuild();
}

function rebuild() {
  const options = {
    metric: element("metric").value,
    inverted: element("invert").checked,
    hidePlumbing: element("plumbing").checked,
    hideImports: element("imports").checked,
  };
  view.show(new FrameTree(model, options));
  const isEmpty = view.tree.root[options.metric] === 0;
  element("empty").hidden = !isEmpty;
  element("frames").hidden = isEmpty;
  showZoom();
  showTitle();
  search();
}

function showTitle() {
  const { bytes, blocks } = view.tree.root;
  let mode = MODES[data.subject.mode];
  if (data.peaks) {
    mode = "at the range's high-water mark, before " + plot.seconds(model.peakWindow + 1);
  } else if (data.windows) {
    mode = "that came in the range and lived at its end";
  }
  element("subject").textContent = "";
  element("notes").replaceChildren();
  showSubject(data.subject, "Flame graph", formatBytes(bytes) + " in " + formatCount(blocks) + " blocks " + mode);
}

function showZoom() {
  element("reset").disabled = view.focus === view.tree.root;
}

function search() {
  const wanted = element("search").value.toLowerCase();
  view.marked = null;
  element("found").textContent = "";
  if (wanted) {
    const matches = data.strings.map((text) => text.toLowerCase().includes(wanted));
    view.marked = Uint8Array.from(data.functions, (name, location) => matches[name] || matches[data.files[location]] ? 1 : 0);
    const { metric } = view.tree.options;
    const sum = model.matched(view.marked, metric);
    const amount = metric === "bytes" ? formatBytes(sum) : formatCount(sum) + " allocations";
    element("found").textContent = amount + ", " + formatShare(sum, view.tree.root[metric]);
  }
  view.draw();
}

function zoom(frame) {
  view.zoom(frame);
  showZoom();
}

function describe(frame, x, y) {
  const tip = element("tip");
  tip.hidden = !frame;
  if (!frame) return;
  const add = (tag, text) => {
    const part = document.createElement(tag);
    part.textContent = text;
    return part;
  };
  const root = view.tree.root;
  const amounts = `${formatBytes(frame.bytes)} (${formatShare(frame.bytes, root.bytes)}) in ${formatCount(frame.blocks)} blocks`;
  const parts = [];
  if (frame.location < 0) {
    parts.push(add("strong", "all"), add("div", amounts));
  } else {
    const { location } = frame;
    const line = model.line(location);
    parts.push(add("strong", model.name(location)), add("span", model.file(location) + (line > 0 ? ":" + line : "")));
    parts.push(add("div", amounts));
    if (model.source(location)) parts.push(add("code", model.source(location)));
  }
  tip.replaceChildren(...parts);
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(0, Math.min(x + 12, innerWidth - box.width - 8)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? Math.max(0, y - box.height - 8) : y + 18) + "px";
}

function describeSelected() {
  const box = (view.rows[view.selected.depth] || []).find((row) => row.frame === view.selected);
  const chart = view.chart.getBoundingClientRect();
  const y = chart.top + view.y(view.selected.depth) - view.chart.scrollTop;
  describe(view.selected, box ? box.x : 0, y);
}

view.canvas.addEventListener("mousemove", (event) => {
  const frame = view.at(event.clientX, event.clientY);
  view.canvas.style.cursor = frame ? "pointer" : "default";
  describe(frame, event.clientX, event.clientY);
});
view.canvas.addEventListener("mouseleave", () => describe(null));
view.canvas.addEventListener("click", (event) => {
  const frame = view.at(event.clientX, event.clientY);
  if (frame) zoom(frame);
});
view.canvas.addEventListener("keydown", (event) => {
  if (event.key.startsWith("Arrow")) {
    event.preventDefault();
    view.move(event.key);
    if (view.selected) describeSelected();
  } else if (event.key === "Enter" && view.selected) {
    zoom(view.selected);
  }
});
view.chart.addEventListener("scroll", () => view.draw());
for (const id of ["metric", "invert", "plumbing", "imports"]) element(id).addEventListener("change", rebuild);
element("thread").addEventListener("change", update);
element("flame").addEventListener("change", () => {
  view.rootBelow = element("flame").checked;
  view.layOut(true);
});
element("search").addEventListener("input", search);
element("reset").addEventListener("click", () => zoom(view.tree.root));
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input[type=search], select");
  if (event.key === "Escape") {
    describe(null);
    if (isTyping) event.target.blur();
    else zoom(view.tree.root);
  } else if (!isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const box = { i: "invert", f: "flame", u: "plumbing", m: "imports" }[event.key];
    if (event.key === "/") {
      event.preventDefault();
      element("search").focus();
    } else if (box && !element(box + "-choice")?.hidden) {
      element(box).click();
    }
  }
});
new ResizeObserver(() => {
  plot.draw();
  view.layOut(false);
}).observe(view.chart);
view.dark.addEventListener("change", () => {
  view.colors.clear();
  plot.draw();
  view.draw();
});

data.threads.forEach((name, number) => {
  const option = document.createElement("option");
  option.value = number;
  option.textContent = name;
  element("thread").append(option);
});
element("thread-choice").hidden = data.threads.length < 2;
element("plumbing-choice").hidden = !model.hasPlumbing;
element("imports-choice").hidden = !model.hasImports;
element("invert").checked = data.inverted;
const origins = new Set(data.kinds.map((kind) => kind >> KIND_ORIGIN_SHIFT));
for (const origin of [...origins].sort().reverse()) {
  const { name, hue, saturation } = ORIGINS[origin] || ORIGINS[0];
  const entry = document.createElement("span");
  const patch = document.createElement("i");
  patch.style.background = `hsl(${hue} ${saturation}% 60%)`;
  entry.append(patch, name);
  element("legend").append(entry);
}
plot.draw();
update();
