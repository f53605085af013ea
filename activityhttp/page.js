"use strict";

// The page follows the activities: see the type update in view.go. All text arrives as text, or
// as HTML that html/template has escaped.

const rows = document.getElementById("rows");
const state = document.getElementById("live");

// parse returns the element that is the whole of html.
function parse(html) {
  const t = document.createElement("template");
  t.innerHTML = html;
  return t.content.firstElementChild;
}

// morph makes the node from look like the node to, and touches only what differs. So the focus,
// the selection and an open <details> stay.
function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) {
    if (name !== "open" && !to.hasAttribute(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  // Copies, because a child that replaces another one leaves its parent.
  const old = [...from.childNodes];
  const wanted = [...to.childNodes];
  wanted.forEach((child, i) => (i < old.length ? morph(old[i], child) : from.append(child)));
  old.slice(wanted.length).forEach((child) => child.remove());
}

function setCell(row, name, text) {
  if (name === "Value" || name === "Max") row.querySelector("progress").setAttribute(name, text);
  else row.querySelector(`[data-f=${name}]`).textContent = text;
}

function apply(update) {
  for (const [id, html] of Object.entries(update.Parts ?? {})) morph(document.getElementById(id), parse(html));
  const known = new Map([...rows.children].map((row) => [row.dataset.key, row]));
  for (const [key, html] of Object.entries(update.Rows ?? {})) {
    if (known.has(key)) morph(known.get(key), parse(html));
    else known.set(key, parse(html));
  }
  for (const [key, cells] of Object.entries(update.Cells ?? {})) {
    for (const [name, text] of Object.entries(cells)) setCell(known.get(key), name, text);
  }
  if (update.Order) reorder(update.Order.map((key) => known.get(key)));
}

// reorder makes wanted the rows of the table. A node that is moved loses the focus, so it is
// given back.
function reorder(wanted) {
  const focus = document.activeElement;
  const stay = new Set(wanted);
  for (const row of [...rows.children]) if (!stay.has(row)) row.remove();
  wanted.forEach((row, i) => {
    if (rows.children[i] !== row) rows.insertBefore(row, rows.children[i] ?? null);
  });
  if (focus !== document.activeElement && rows.contains(focus)) focus.focus({ preventScroll: true });
}

// connect follows the stream. The browser connects anew when a stream ends, but not after an
// error status, such as that of a proxy while the program restarts.
function connect() {
  const source = new EventSource("live" + location.search);
  source.onopen = () => say("live");
  source.onmessage = (event) => apply(JSON.parse(event.data));
  source.onerror = () => {
    say("not live, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function say(text) {
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("lost", text !== "live");
}

connect();
