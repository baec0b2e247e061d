// What the tests in Cockpit share: a browser, what goes wrong, waiting, and what a screen reader would stumble over.
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";

const require = createRequire(process.env.PAGE_MODULES + "/");
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");

export const patience = 240000; // milliseconds

// start opens a browser; errors of the page are told as wrong.
export async function start() {
  const wrong = [];
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  const newPage = async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, acceptDownloads: true, ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.setDefaultTimeout(patience);
    page.on("console", (m) => m.type() === "error" && m.location().url.includes("virt-rotate") && wrong.push(`console: ${m.text()}`));
    page.on("pageerror", (e) => wrong.push(`error: ${e.stack}`));
    return page;
  };
  return { browser, wrong, newPage };
}

export const step = (text) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`);

export async function until(what, is) {
  for (const end = Date.now() + patience; Date.now() < end; await new Promise((done) => setTimeout(done, 250))) if (await is()) return;
  throw new Error(`never: ${what}`);
}

// accessible has axe look at a frame.
export async function accessible(frame, what, wrong) {
  const found = await frame.evaluate(`(() => { ${axe}; return axe.run(document, { resultTypes: ["violations"] }); })()`);
  for (const v of found.violations) {
    const line = `axe, ${what}: ${v.impact}: ${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join("; ")}`;
    if (["serious", "critical"].includes(v.impact)) wrong.push(line);
    else console.log(`note: ${line}`);
  }
}

// end closes the browser and tells what was wrong.
export async function end(browser, wrong) {
  await browser.close();
  for (const line of wrong) console.log(line);
  process.exitCode = wrong.length > 0 ? 1 : 0;
}
