// Small pieces of the page. Text is always text: nothing that a guest says becomes markup.

export function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

export function button(text, onclick, kind = "") {
  return element("button", { type: "button", class: kind, onclick }, text);
}

// visible writes control characters, and those that turn the direction of others around, as the report does.
export function visible(text) {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

// fragment is the HTML of a report's part: the program has escaped what is in it. Without a document of
// its own nothing of it would run or be loaded in any case.
export function fragment(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  return [...parsed.body.childNodes].map((n) => document.adoptNode(n));
}

// A dialog with a form: fields, what it says, and what it does.
export function dialog(title, children, actions) {
  const id = "vr-dialog-title";
  const said = element("div", { role: "status" });
  const close = button("Close", () => d.close());
  const menu = element("menu", {}, ...actions.map((a) => a), close);
  const d = element("dialog", { "aria-labelledby": id }, element("h2", { id }, title), ...children, said, menu);
  d.addEventListener("close", () => d.remove());
  document.body.append(d);
  d.showModal();
  return {
    element: d,
    close: () => d.close(),
    // say shows what a command has printed; an error in full.
    say(text, error = false) {
      said.replaceChildren(element("pre", { class: error ? "error" : "" }, text));
    },
    // during keeps the buttons from being pressed twice.
    async during(work) {
      const all = [...menu.querySelectorAll("button")].filter((b) => !b.disabled);
      all.forEach((b) => (b.disabled = true));
      try {
        return await work();
      } catch (ex) {
        this.say(ex.message, true);
        return undefined;
      } finally {
        all.forEach((b) => (b.disabled = false));
      }
    },
  };
}

export function textField(label, hint = "") {
  const input = element("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  return { input, field: element("label", {}, label, hint ? element("span", {}, hint) : "", input) };
}

export function checkField(label, checked = false) {
  const input = element("input", { type: "checkbox", checked });
  return { input, field: element("label", { class: "check" }, input, element("span", {}, label)) };
}

export function choiceField(label, values) {
  const input = element("select", {}, ...values.map((v) => element("option", { value: v }, visible(v))));
  return { input, field: element("label", {}, label, input) };
}
