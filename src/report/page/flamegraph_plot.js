// Memory over time; where the page knows what happened when, a range of it can be chosen.

class Plot {
  // `onRange(first, last)` is called with the numbers of windows.
  constructor(data, onRange) {
    this.memory = data.memory;
    this.windows = data.windows;
    this.onRange = onRange;
    this.canvas = document.getElementById("plot");
    this.first = 0;
    this.last = this.windows ? this.windows.count - 1 : 0;
    const times = this.memory.times;
    this.start = this.windows ? this.windows.start_ms : times[0] || 0;
    // The last window may not be over.
    const past = this.windows ? this.start + (this.windows.count - 1) * this.windows.width_ms + 1 : 0;
    const end = Math.max(past, times[times.length - 1] || 0, data.subject.end_ms);
    this.length = Math.max(1, end - this.start);
    document.getElementById("plot-area").hidden = times.length < 2 && !this.windows;
    if (this.windows) this.offerRanges();
  }

  offerRanges() {
    document.getElementById("ranges").hidden = false;
    const [from, to] = [document.getElementById("from"), document.getElementById("to")];
    for (const input of [from, to]) {
      input.min = 0;
      input.max = this.last;
    }
    from.addEventListener("input", () => this.choose(Number(from.value), Math.max(Number(from.value), this.last)));
    to.addEventListener("input", () => this.choose(Math.min(this.first, Number(to.value)), Number(to.value)));
    let begin = null;
    const windowAt = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const elapsed = ((event.clientX - box.left) / Math.max(1, box.width)) * this.length;
      return Math.min(this.windows.count - 1, Math.max(0, Math.floor(elapsed / this.windows.width_ms)));
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      begin = windowAt(event);
      this.canvas.setPointerCapture(event.pointerId);
      this.choose(begin, begin);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (begin === null) return;
      const end = windowAt(event);
      this.choose(Math.min(begin, end), Math.max(begin, end));
    });
    this.canvas.addEventListener("pointerup", () => (begin = null));
    this.canvas.addEventListener("dblclick", () => this.choose(0, this.windows.count - 1));
    this.canvas.title = "Drag to choose a range, double-click for all";
  }

  choose(first, last) {
    if (first === this.first && last === this.last) return;
    [this.first, this.last] = [first, last];
    this.draw();
    this.onRange(first, last);
  }

  seconds(window) {
    return (Math.min(this.length, window * this.windows.width_ms) / 1000).toFixed(2) + " s";
  }

  draw() {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const { times, rss, heap } = this.memory;
    const heaps = heap.filter((bytes) => bytes >= 0);
    const most = [...rss, ...heaps].reduce((a, b) => Math.max(a, b), 1) * 1.05;
    const [top, bottom] = [16, height - 4];
    const x = (time) => ((time - this.start) / this.length) * width;
    const y = (bytes) => bottom - (bytes / most) * (bottom - top);
    if (this.windows) {
      context.fillStyle = color("--range");
      const step = (width * this.windows.width_ms) / this.length;
      context.fillRect(this.first * step, 0, (this.last - this.first + 1) * step, height);
      document.getElementById("from").value = this.first;
      document.getElementById("to").value = this.last;
      document.getElementById("from-text").textContent = "from " + this.seconds(this.first);
      document.getElementById("to-text").textContent = "to " + this.seconds(this.last + 1);
    }
    for (const [values, name] of [[rss, "--rss"], [heap, "--heap"]]) {
      context.strokeStyle = color(name);
      context.lineWidth = 1.5;
      context.beginPath();
      let isDown = false;
      for (let index = 0; index < times.length; index += 1) {
        if (values[index] < 0) continue;
        if (isDown) context.lineTo(x(times[index]), y(values[index]));
        else context.moveTo(x(times[index]), y(values[index]));
        isDown = true;
      }
      context.stroke();
    }
    context.font = "11px system-ui, sans-serif";
    const largest = (values) => formatBytes(values.reduce((a, b) => Math.max(a, b), 0));
    let left = 4;
    for (const [text, name] of [
      [rss.length > 0 ? "resident memory, at most " + largest(rss) : "", "--rss"],
      [heaps.length > 0 ? "allocated and live, at most " + largest(heaps) : "", "--heap"],
      [(this.length / 1000).toFixed(1) + " s", "--faint"],
    ]) {
      context.fillStyle = color(name);
      context.fillText(text, left, 11);
      left += text ? context.measureText(text).width + 16 : 0;
    }
  }
}
