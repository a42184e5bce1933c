"use strict";
// Before the script of each page. Texts of models and data are put in by textContent and attributes alone.
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}
