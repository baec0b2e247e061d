// What one can do to a guest. Each dialog shows the command's own words.

import { copied, json, run, save } from "./command.js";
import { button, checkField, choiceField, dialog, element, textField, visible } from "./dom.js";

// Newest first, as one wants them.
const namesOf = (guest) => guest.snapshots.map((s) => s.name).reverse();

// Cockpit leaves the unit of bytes out.
const sizeOf = (n) => cockpit.format_bytes(n).replace(/^\d+$/, "$& B");

export function takeSnapshot(guest, done) {
  const name = textField("Name", "by default the policy's name and the time");
  const note = textField("Note", "why it was taken");
  const pin = checkField("Pin: it stays until that is taken back, whatever retention says");
  const take = button("Take snapshot", () => d.during(async () => {
    const flags = [];
    if (name.input.value) flags.push(`--name=${name.input.value}`);
    if (note.input.value) flags.push(`--note=${note.input.value}`);
    if (pin.input.checked) flags.push("--pin");
    d.say(await run(["snapshot", ...flags, "--", guest.name]) || "Done.");
    done();
  }), "primary");
  const d = dialog(`Snapshot of ${visible(guest.name)}`, [name.field, note.field, pin.field], [take]);
}

// planAndRun shows what a run would do before it does that.
export function planAndRun(guest, done) {
  const go = button("Run", () => d.during(async () => {
    let text = "";
    try {
      await run(["run", "-v", "--", guest.name], (more) => d.say(text += more));
      d.say(text || "Nothing to do.");
    } catch (ex) {
      throw new Error([text, ex.message].filter(Boolean).join("\n"));
    }
    go.hidden = true;
    done();
  }), "primary");
  const d = dialog(`Plan for ${visible(guest.name)}`, [], [go]);
  d.say("Looking…");
  d.during(async () => d.say(await run(["plan", "--", guest.name])));
}

export async function setPin(guest, snapshot, pinned, done) {
  await run([pinned ? "pin" : "unpin", "--", guest.name, snapshot.name]);
  done();
}

// restore tells what it will do before it can be done. Who pulls the plug types the guest's name.
export function restore(guest, done) {
  const snapshot = choiceField("Snapshot", namesOf(guest));
  const off = guest.state === "shut off";
  const stop = checkField("Shut the guest down first; it runs again afterwards", !off);
  const force = checkField("Pull the plug if it does not obey: what it has not written yet is lost");
  const typed = textField(`Type the guest's name to pull the plug: ${visible(guest.name)}`);
  typed.field.hidden = true;
  const args = () => [...(stop.input.checked ? ["--stop"] : []), ...(force.input.checked ? ["--force"] : [])];
  let shown = "";
  const go = button("Restore", async () => {
    let text = "";
    await d.during(async () => {
      shown = ""; // whatever comes of it, the guest is another one afterwards
      try {
        await run(["restore", ...args(), "--", guest.name, snapshot.input.value], (more) => d.say(text += more));
      } catch (ex) {
        throw new Error([text, ex.message].filter(Boolean).join("\n"));
      }
      d.say(text || "Done.");
      go.hidden = true;
      done();
    });
    ready();
  }, "danger");
  // What was shown is what is done: whatever changes has to be shown again.
  const changed = () => {
    shown = "";
    force.input.disabled = !stop.input.checked; // it says how to stop
    if (force.input.disabled) force.input.checked = false;
    typed.field.hidden = !force.input.checked;
    if (!force.input.checked) typed.input.value = "";
    ready();
  };
  const ready = () => {
    go.disabled = !shown || shown !== [...args(), snapshot.input.value].join(" ") || (force.input.checked && typed.input.value !== guest.name);
  };
  const show = button("Show what it does", async () => {
    const asked = [...args(), snapshot.input.value].join(" ");
    shown = "";
    await d.during(async () => {
      d.say(await run(["restore", "--dry-run", ...args(), "--", guest.name, snapshot.input.value]));
      shown = asked;
    });
    ready();
  }, "primary");
  for (const field of [snapshot, stop, force]) field.input.addEventListener("change", changed);
  typed.input.addEventListener("input", ready);
  const d = dialog(`Restore ${visible(guest.name)}`, [snapshot.field, stop.field, force.field, typed.field], [show, go]);
  changed();
}

// browse lists the files of a snapshot; one is downloaded by its name.
export function browse(guest) {
  const snapshot = choiceField("Snapshot", namesOf(guest));
  const kernel = checkField("Let this host's kernel mount the disk: faster, for guests that you trust");
  const list = element("ul", { class: "files" });
  const where = element("p", { class: "dim" });
  const flags = () => (kernel.input.checked ? ["--host-kernel"] : []);
  const at = (path) => `${guest.name}@${snapshot.input.value}:${path}`;
  const open = (path) => d.during(async () => {
    list.replaceChildren();
    d.say("Looking…");
    const found = await json(["ls", "--output=json", ...flags(), "--", at(path)]);
    d.say(`${found.files.length} entries`);
    where.textContent = visible(path);
    if (path !== "/") list.append(element("li", {}, button("..", () => open(path.replace(/[^/]*\/$/, "") || "/"), "small")));
    for (const f of found.files) list.append(row(path, f));
  });
  const row = (path, f) => {
    const name = f.path.split("/").pop();
    const inside = path + name;
    if (f.type === "directory") return element("li", {}, button(visible(name) + "/", () => open(inside + "/"), "small"));
    const size = element("span", { class: "dim" }, sizeOf(f.size));
    if (f.type !== "file") return element("li", {}, visible(name), size);
    return element("li", {}, button(visible(name), () => d.during(async () => {
      d.say(`Copying ${visible(name)}…`);
      save(await copied(at(inside), flags()), name);
      d.say(`${visible(name)} was handed to the browser.`);
    }), "small"), size);
  };
  const d = dialog(`Files of ${visible(guest.name)}`, [snapshot.field, kernel.field, where, list], [button("Open", () => open("/"), "primary")]);
}
