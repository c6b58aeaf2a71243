// What is weighed: the stacks as one tree in flat arrays, and how much each of its nodes holds under the chosen filters.

const KIND_PLUMBING = 1;
const KIND_IMPORT = 2;
const KIND_ORIGIN_SHIFT = 2;

class Model {
  constructor(data) {
    this.data = data;
    const count = data.steps.length + 1;
    this.count = count;
    // A node's caller has a smaller number; 0 is the root.
    this.parent = new Int32Array(count);
    this.location = new Int32Array(count);
    this.firstChild = new Int32Array(count);
    this.nextSibling = new Int32Array(count);
    this.inImport = new Uint8Array(count);
    this.own = { bytes: new Float64Array(count), blocks: new Float64Array(count) };
    this.total = { bytes: new Float64Array(count), blocks: new Float64Array(count) };
    for (let node = 1; node < count; node += 1) {
      const parent = node - data.steps[node - 1];
      const location = data.node_locations[node - 1];
      this.parent[node] = parent;
      this.location[node] = location;
      this.nextSibling[node] = this.firstChild[parent];
      this.firstChild[parent] = node;
      this.inImport[node] = this.inImport[parent] | (data.kinds[location] & KIND_IMPORT ? 1 : 0);
    }
    this.hasPlumbing = data.kinds.some((kind) => kind & KIND_PLUMBING);
    this.hasImports = this.inImport.some((flag) => flag);
  }

  // Weighs everything anew: of one thread, or of all (-1), and of the windows from first to last where there are any.
  weigh(thread, first, last) {
    const { own, total, count, parent } = this;
    own.bytes.fill(0);
    own.blocks.fill(0);
    if (this.data.peaks) {
      this.weighPeak(thread, first, last);
    } else {
      this.weighRows(thread, first, last);
    }
    total.bytes.set(own.bytes);
    total.blocks.set(own.blocks);
    for (let node = count - 1; node > 0; node -= 1) {
      total.bytes[parent[node]] += total.bytes[node];
      total.blocks[parent[node]] += total.blocks[node];
    }
  }

  weighRows(thread, first, last) {
    const { nodes, threads, bytes, blocks, born, died } = this.data.rows;
    for (let row = 0; row < nodes.length; row += 1) {
      if (thread >= 0 && threads[row] !== thread) continue;
      // What came within the range and did not go within it.
      if (born && (born[row] < first || born[row] > last || (died[row] >= 0 && died[row] <= last))) continue;
      this.own.bytes[nodes[row]] += bytes[row];
      this.own.blocks[nodes[row]] += blocks[row];
    }
  }

  // What lived at the highest of the range's marks; of equals the latest.
  weighPeak(thread, first, last) {
    const { marks, nodes, threads, changes } = this.data.peaks;
    let peak = first;
    for (let window = first; window <= last; window += 1) {
      if (marks[window] >= marks[peak]) peak = window;
    }
    this.peakWindow = peak;
    const add = (change) => {
      const place = changes.places[change];
      if (thread >= 0 && threads[place] !== thread) return;
      this.own.bytes[nodes[place]] += changes.bytes[change];
      this.own.blocks[nodes[place]] += changes.blocks[change];
    };
    // By place and window: the last one up to the peak counts.
    let candidate = -1;
    for (let change = 0; change < changes.places.length; change += 1) {
      if (candidate >= 0 && changes.places[candidate] !== changes.places[change]) {
        add(candidate);
        candidate = -1;
      }
      if (changes.windows[change] <= peak) candidate = change;
    }
    if (candidate >= 0) add(candidate);
  }

  // The share of what the filters leave that is held by stacks with a marked place.
  matched(marked, metric) {
    const covered = new Uint8Array(this.count);
    let sum = 0;
    for (let node = 1; node < this.count; node += 1) {
      covered[node] = covered[this.parent[node]] | marked[this.location[node]];
      if (covered[node]) sum += this.own[metric][node];
    }
    return sum;
  }

  name(location) {
    return this.data.strings[this.data.functions[location]];
  }

  file(location) {
    return this.data.strings[this.data.files[location]];
  }

  line(location) {
    return this.data.lines[location];
  }

  source(location) {
    const source = this.data.sources[location];
    return source > 0 ? this.data.strings[source - 1] : "";
  }

  kind(location) {
    return this.data.kinds[location];
  }

  origin(location) {
    return this.data.kinds[location] >> KIND_ORIGIN_SHIFT;
  }
}

// A frame as it is drawn. Frames come to be when they are looked at: what is too narrow to be seen is never made.
class Frame {
  constructor(location, parent) {
    this.location = location;
    this.parent = parent;
    this.depth = parent ? parent.depth + 1 : 0;
    this.bytes = 0;
    this.blocks = 0;
    // Upright: the tree's nodes that this frame is. Inverted: the nodes that called them, and what they weigh.
    this.nodes = [];
    this.weights = null;
    this.children = null;
  }
}

class FrameTree {
  constructor(model, options) {
    this.model = model;
    this.options = options;
    this.root = new Frame(-1, null);
    this.root.bytes = model.total.bytes[0];
    this.root.blocks = model.total.blocks[0];
    if (!options.inverted) {
      this.root.nodes.push(0);
      return;
    }
    this.root.weights = [];
    for (let node = 1; node < model.count; node += 1) {
      const bytes = model.own.bytes[node];
      const blocks = model.own.blocks[node];
      if (bytes === 0 && blocks === 0) continue;
      this.root.nodes.push(this.shown(node));
      this.root.weights.push(bytes, blocks);
    }
  }

  isPlumbing(node) {
    return this.options.hidePlumbing && this.model.kind(this.model.location[node]) & KIND_PLUMBING;
  }

  isHiddenImport(node) {
    return this.options.hideImports && this.model.inImport[node];
  }

  // The node itself or the next above it that is not hidden.
  shown(node) {
    while (node !== 0 && (this.isPlumbing(node) || this.isHiddenImport(node))) node = this.model.parent[node];
    return node;
  }

  children(frame) {
    if (frame.children === null) {
      const groups = frame.weights ? this.groupCallers(frame) : this.groupCalled(frame);
      const { metric } = this.options;
      frame.children = [...groups.values()]
        .filter((child) => child[metric] > 0)
        .sort((a, b) => b[metric] - a[metric] || a.location - b.location);
      // They are not looked at again.
      frame.nodes = [];
      frame.weights = frame.weights && [];
    }
    return frame.children;
  }

  child(groups, location, frame) {
    let child = groups.get(location);
    if (!child) {
      child = new Frame(location, frame);
      groups.set(location, child);
    }
    return child;
  }

  groupCalled(frame) {
    const { firstChild, nextSibling, location, total } = this.model;
    const groups = new Map();
    const open = [...frame.nodes];
    while (open.length > 0) {
      for (let node = firstChild[open.pop()]; node !== 0; node = nextSibling[node]) {
        if ((total.bytes[node] === 0 && total.blocks[node] === 0) || this.isHiddenImport(node)) continue;
        if (this.isPlumbing(node)) {
          open.push(node);
          continue;
        }
        const child = this.child(groups, location[node], frame);
        child.nodes.push(node);
        child.bytes += total.bytes[node];
        child.blocks += total.blocks[node];
      }
    }
    return groups;
  }

  groupCallers(frame) {
    const { parent, location } = this.model;
    const groups = new Map();
    for (let index = 0; index < frame.nodes.length; index += 1) {
      const node = frame.nodes[index];
      if (node === 0) continue;
      const child = this.child(groups, location[node], frame);
      const bytes = frame.weights[2 * index];
      const blocks = frame.weights[2 * index + 1];
      child.weights ??= [];
      child.nodes.push(this.shown(parent[node]));
      child.weights.push(bytes, blocks);
      child.bytes += bytes;
      child.blocks += blocks;
    }
    return groups;
  }
}
