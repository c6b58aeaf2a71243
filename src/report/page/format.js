// Numbers as the terminal's reports print them, and the head that all pages have.

function formatBytes(bytes) {
  const suffixes = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let value = Math.abs(bytes);
  let power = 0;
  while (value >= 1000 && power + 1 < suffixes.length) {
    value /= 1000;
    power += 1;
  }
  return (bytes < 0 ? "-" : "") + value.toFixed(3) + suffixes[power];
}

function formatCount(count) {
  return count.toLocaleString("en-US");
}

function formatShare(part, whole) {
  return (whole > 0 ? (100 * part) / whole : 0).toFixed(2) + "%";
}

function formatTime(ms) {
  return new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";
}

function formatPlace(name, file, line) {
  return name + " at " + file + (line > 0 ? ":" + line : "");
}

const MODES = {
  high_water_mark: "at the high-water mark",
  leaks: "still live at the end",
  temporary_allocations: "of temporary allocations",
};

// Every text is set as text, never as markup: names are the target's.
function showSubject(subject, title, sentence) {
  document.title = title + " " + subject.capture;
  document.getElementById("title").textContent = title + " of " + subject.capture;
  const length = Math.max(0, subject.end_ms - subject.start_ms) / 1000;
  const when = subject.start_ms > 0 ? ", " + formatTime(subject.start_ms) + ", " + length.toFixed(1) + " s" : "";
  const program = subject.command_line || "unknown program";
  document.getElementById("subject").textContent = sentence + " (" + program + ", process " + subject.pid + when + ")";
  const notes = document.getElementById("notes");
  for (const note of subject.notes) {
    const item = document.createElement("li");
    item.textContent = note;
    notes.append(item);
  }
}
