// Cockpit's page of virt-rotate: the parts of the report, live, with what one can do beside them.

import { json, run, save } from "./command.js";
import { button, dialog, element, fragment, visible } from "./dom.js";
import { browse, planAndRun, restore, setPin, takeSnapshot } from "./actions.js";

const at = (id) => document.getElementById(id);

// How long it waits between two looks, in milliseconds: while something goes on, and else; and no less than so
// many times what a look takes.
const busy = 2000;
const idle = 10000;
const rests = 5;

// Without administrative access virt-rotate has the rights of who is logged in.
const admin = cockpit.permission({ admin: true });
const limited = "virt-rotate was called with your own rights, without administrative access, and this is what it says. " +
  "If you may use sudo, turn that access on at the top of Cockpit (“Limited access”).";

let model = null;
let timer = 0;
let looking = null;

// The theme is Cockpit's, not the browser's alone.
function theme() {
  const style = localStorage.getItem("shell:style") || "auto";
  const dark = style === "dark" || (style === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.body.classList.toggle("vr-dark", dark);
  document.body.classList.toggle("vr-light", !dark);
}

async function look() {
  clearTimeout(timer);
  looking ??= lookOnce().finally(() => { looking = null; });
  await looking;
}

async function lookOnce() {
  const began = Date.now();
  try {
    const found = await json(["report", "--output=fragments"]);
    model = found.model;
    draw(found);
    trouble("");
    at("state").textContent = `As of ${new Date().toLocaleTimeString()}${model.working ? ", a run is at work" : ""}`;
  } catch (ex) {
    trouble(ex.message, admin.allowed === false ? limited : "");
    at("state").textContent = "The host could not be looked at.";
  }
  const wait = model && (model.working || model.guests.some((g) => g.jobs.length)) ? busy : idle;
  timer = setTimeout(again, Math.max(wait, rests * (Date.now() - began)));
}

// again leaves the page as it is while nobody sees it, or somebody is in a dialog with it.
function again() {
  if (document.hidden || document.querySelector("dialog[open]")) timer = setTimeout(again, busy);
  else look();
}

function trouble(text, why = "") {
  at("trouble").hidden = !text;
  at("trouble").replaceChildren(...(why ? [element("p", {}, why)] : []), ...(text ? [element("pre", { class: "error" }, text)] : []));
}

// A place that is remembered over a look: what is open, and where the keyboard is.
function places(root) {
  const found = new Map();
  root.querySelectorAll("details").forEach((d) => {
    const guest = d.closest("section")?.querySelector("h2")?.textContent;
    found.set(`${guest} ${d.querySelector("summary").textContent}`, d);
  });
  return found;
}

function draw(found) {
  const main = at("main");
  const open = [...places(main)].filter(([, d]) => d.open).map(([key]) => key);
  const active = document.activeElement?.dataset?.key;
  at("symbols").replaceChildren(...fragment(found.symbols));
  at("overview").replaceChildren(...fragment(found.overview));
  at("guests").replaceChildren(...found.guests.flatMap((g, i) => {
    const nodes = fragment(g.html);
    equip(nodes.find((n) => n.tagName === "SECTION"), model.guests[i]);
    return nodes;
  }));
  const now = places(main);
  open.forEach((key) => { const d = now.get(key); if (d) d.open = true; });
  if (active) main.querySelector(`[data-key="${CSS.escape(active)}"]`)?.focus({ preventScroll: true });
}

// equip puts what one can do to a guest below its name, and beside its snapshots.
function equip(section, guest) {
  const press = (text, what, kind) => {
    const b = button(text, what, kind);
    b.dataset.key = `${guest.name} ${text}`;
    return b;
  };
  const some = guest.snapshots.length > 0;
  section.querySelector("h2").after(element("p", { class: "actions", role: "group", "aria-label": `Actions for ${visible(guest.name)}` },
    press("Take snapshot…", () => takeSnapshot(guest, look)),
    press("Plan and run…", () => planAndRun(guest, look)),
    ...(some ? [press("Restore…", () => restore(guest, look)), press("Files…", () => browse(guest))] : [])));
  section.querySelectorAll(".snaps > li").forEach((li, i) => {
    const s = guest.snapshots[i];
    if (!s || !s.ours || s.lost) return;
    const b = press(s.pinned ? "Unpin" : "Pin", async () => {
      b.disabled = true;
      try {
        await setPin(guest, s, !s.pinned, look);
      } catch (ex) {
        dialog(`${s.pinned ? "Unpin" : "Pin"} ${visible(s.name)}`, [], []).say(ex.message, true);
      } finally {
        b.disabled = false;
      }
    }, "small");
    b.dataset.key = `${guest.name} ${s.name}`;
    b.setAttribute("aria-label", `${b.textContent} ${visible(s.name)}`);
    li.append(" ", b);
  });
}

async function download() {
  at("download").disabled = true;
  try {
    save(new Blob([await run(["report", "-o", "-"])], { type: "text/html" }), `virt-rotate-${new Date().toISOString().slice(0, 10)}.html`);
  } catch (ex) {
    trouble(ex.message);
  } finally {
    at("download").disabled = false;
  }
}

// Links of the report lead to its parts; the address is Cockpit's.
document.addEventListener("click", (event) => {
  const to = event.target.closest?.('a[href^="#"]')?.getAttribute("href").slice(1);
  const part = to && document.getElementById(to);
  if (!part) return;
  event.preventDefault();
  part.scrollIntoView();
  part.tabIndex = -1;
  part.focus({ preventScroll: true });
});

cockpit.transport.wait(() => {
  theme();
  addEventListener("storage", (e) => e.key === "shell:style" && theme());
  addEventListener("cockpit-style", theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  admin.addEventListener("changed", async () => { await looking; look(); });
  at("refresh").addEventListener("click", look);
  at("download").addEventListener("click", download);
  document.body.hidden = false;
  look();
});
