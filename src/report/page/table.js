// The table: sorted by a click on a title, searched, a page of rows at a time.

const PAGE_ROWS = 100;
const data = JSON.parse(document.getElementById("data").textContent);
const columns = [
  { title: "Location", text: (row) => formatPlace(row[0], row[1], row[2]), key: (row) => formatPlace(row[0], row[1], row[2]) },
  { title: "Thread", text: (row) => row[6], key: (row) => row[6] },
  { title: "Allocator", text: (row) => row[3], key: (row) => row[3] },
  { title: "Size", number: true, text: (row) => formatBytes(row[4]), key: (row) => row[4] },
  { title: "Size %", number: true, text: (row) => formatShare(row[4], data.total_bytes), key: (row) => row[4] },
  { title: "Allocations", number: true, text: (row) => formatCount(row[5]), key: (row) => row[5] },
].filter((column) => column.title !== "Thread" || data.has_threads);
const state = { column: columns.findIndex((column) => column.title === "Size"), descending: true, first: 0, shown: data.rows };

function select() {
  const wanted = document.getElementById("search").value.toLowerCase();
  const { key, number } = columns[state.column];
  const compare = number ? (a, b) => key(a) - key(b) : (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
  const matches = (row) => columns.some((column) => !column.number && column.text(row).toLowerCase().includes(wanted));
  state.shown = data.rows.filter(matches).sort(state.descending ? (a, b) => compare(b, a) : compare);
  state.first = 0;
  draw();
}

function draw() {
  const last = Math.min(state.first + PAGE_ROWS, state.shown.length);
  const rows = state.shown.slice(state.first, last).map((row) => {
    const line = document.createElement("tr");
    for (const column of columns) {
      const cell = document.createElement("td");
      cell.textContent = column.text(row);
      cell.className = column.number ? "number" : "";
      line.append(cell);
    }
    return line;
  });
  document.getElementById("rows").replaceChildren(...rows);
  const bytes = state.shown.reduce((sum, row) => sum + row[4], 0);
  const range = state.shown.length > PAGE_ROWS ? state.first + 1 + " to " + last + " of " : "";
  document.getElementById("count").textContent =
    range + formatCount(state.shown.length) + (state.shown.length === 1 ? " row, " : " rows, ") + formatBytes(bytes);
  document.getElementById("previous").disabled = state.first === 0;
  document.getElementById("next").disabled = last === state.shown.length;
  document.querySelectorAll("#titles th").forEach((title, index) => {
    const order = state.descending ? "descending" : "ascending";
    title.setAttribute("aria-sort", index === state.column ? order : "none");
  });
}

for (const [index, column] of columns.entries()) {
  const title = document.createElement("th");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = column.title;
  title.className = column.number ? "number" : "";
  title.append(button);
  button.addEventListener("click", () => {
    state.descending = state.column === index ? !state.descending : Boolean(column.number);
    state.column = index;
    select();
  });
  document.getElementById("titles").append(title);
}
document.getElementById("search").addEventListener("input", select);
document.getElementById("previous").addEventListener("click", () => {
  state.first = Math.max(0, state.first - PAGE_ROWS);
  draw();
});
document.getElementById("next").addEventListener("click", () => {
  state.first += PAGE_ROWS;
  draw();
});
showSubject(data.subject, "Table", formatBytes(data.total_bytes) + " in " + formatCount(data.total_blocks) + " blocks " + MODES[data.subject.mode]);
select();
