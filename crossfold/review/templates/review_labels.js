"use strict";
// Keep both links at the files that the present decisions make.
const kept = JSON.parse(document.getElementById("kept").textContent);
const items = [...document.querySelectorAll(".issues fieldset")];

function cell(text) {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function chosenClass(item) {
  const choice = item.querySelector("input:checked");
  return choice.value === "other" ? item.querySelector("select").value : choice.dataset.class;
}

function offer(id, columns, rows) {
  const lines = [columns, ...rows.sort((one, other) => (one[0] < other[0] ? -1 : 1))];
  const text = lines.map((line) => line.map(cell).join(",") + "\n").join("");
  const link = document.getElementById(id);
  link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
  link.querySelector("span").textContent = rows.length;
}

function update() {
  const exclude = kept.exclude.map((path) => [path]);
  const relabel = [...kept.relabel];
  for (const item of items) {
    const { path, given } = item.dataset;
    const name = chosenClass(item);
    if (name === undefined) exclude.push([path]);
    else if (name !== given) relabel.push([path, name]);
  }
  offer("exclude", ["path"], exclude);
  offer("relabel", ["path", "label"], relabel);
}

document.addEventListener("change", ({ target }) => {
  if (target.matches("select")) target.closest("fieldset").querySelector("[value=other]").checked = true;
  update();
});
window.addEventListener("pageshow", update);
update();
