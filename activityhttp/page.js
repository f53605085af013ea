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
// the selection and an open <details> stay. Children with keys are matched by their keys.
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
  if (to.firstElementChild?.dataset.key) {
    const known = byKey(from);
    place(from, [...to.children].map((child) => {
      const old = known.get(child.dataset.key);
      if (!old) return child;
      morph(old, child);
      return old;
    }));
    return;
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
  const known = byKey(rows);
  for (const [key, html] of Object.entries(update.Rows ?? {})) {
    if (known.has(key)) morph(known.get(key), parse(html));
    else known.set(key, parse(html));
  }
  for (const [key, cells] of Object.entries(update.Cells ?? {})) {
    for (const [name, text] of Object.entries(cells)) setCell(known.get(key), name, text);
  }
  if (update.Order) place(rows, update.Order.map((key) => known.get(key)));
}

// byKey returns the rows of a table by their keys.
function byKey(body) {
  return new Map([...body.children].map((row) => [row.dataset.key, row]));
}

// place makes wanted the rows of a table. A node that is moved loses the focus, so it is given
// back.
function place(body, wanted) {
  const focus = document.activeElement;
  const stay = new Set(wanted);
  for (const node of [...body.childNodes]) if (!stay.has(node)) node.remove();
  wanted.forEach((row, i) => {
    if (body.childNodes[i] !== row) body.insertBefore(row, body.childNodes[i] ?? null);
  });
  if (focus !== document.activeElement && body.contains(focus)) focus.focus({ preventScroll: true });
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
