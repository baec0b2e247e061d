// look.mjs FILE DIR [NAME]: opens a page in Chromium, sees that it is as it promises, and writes
// pictures of it into DIR. It prints what is wrong, a line each, and then ends with status 1.
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.PAGE_MODULES + "/");
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");
const [file, dir, name = "report"] = process.argv.slice(2);
const wrong = [];

// The page as it is, and as somebody would like it to be: with a script put into it.
async function open(context, target) {
  const page = await context.newPage();
  page.on("console", (m) => m.type() === "error" && wrong.push(`console: ${m.text()}`));
  page.on("pageerror", (e) => wrong.push(`error: ${e.message}`));
  page.on("request", (r) => r.url() !== target && wrong.push(`request: ${r.url()}`));
  await page.goto(target);
  return page;
}

async function accessible(page, what) {
  const result = await page.evaluate(async () => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const v of result.violations) {
    const where = v.nodes.slice(0, 3).map((n) => `${n.target.join(" ")} (${n.failureSummary.replaceAll("\n", " ")})`);
    const line = `axe, ${what}: ${v.impact}: ${v.id}: ${v.help}: ${where.join("; ")}`;
    if (["serious", "critical"].includes(v.impact)) wrong.push(line);
    else console.log(`note: ${line}`);
  }
}

// Nothing is wider than the window.
async function fits(page, what) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (over > 0) wrong.push(`${what}: ${over} pixels too wide`);
}

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const url = pathToFileURL(file).href;
for (const scheme of ["light", "dark"]) {
  for (const width of [1280, 390]) {
    const what = `${width} wide, ${scheme}`;
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: "reduce" });
    const page = await open(context, url);
    await page.screenshot({ path: `${dir}/${name}-${width}-${scheme}.png` });
    await fits(page, what);
    await context.close();
    // Axe is a script, which the page's policy would not let run.
    const around = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, bypassCSP: true });
    const looked = await open(around, url);
    await looked.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
    await fits(looked, what + ", all open");
    await looked.screenshot({ path: `${dir}/${name}-${width}-${scheme}-all.png`, fullPage: true });
    await looked.evaluate(axe);
    await accessible(looked, what);
    await around.close();
  }
}

// The keyboard: the first stop leads to the report, and layers open by Enter.
{
  const page = await (await browser.newContext()).newPage();
  await page.goto(url);
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.getAttribute("href"));
  if (first !== "#main") wrong.push(`the first stop of the keyboard is ${first}`);
  const layer = page.locator(".tree summary").first();
  if (await layer.count()) {
    await layer.focus();
    await page.keyboard.press("Enter");
    if (!(await page.locator(".tree details[open] p").first().isVisible())) wrong.push("a layer does not open by the keyboard");
  }
}

// A script in the page does not run, and a style beside its own does not count.
{
  const context = await browser.newContext();
  const page = await context.newPage();
  const refused = [];
  page.on("console", (m) => refused.push(m.text()));
  const text = (await readFile(file, "utf8")).replace("</main>", `<script>window.ran = 1</script><style>h1{display:none}</style><img src=x onerror="window.ran=1"></main>`);
  await page.route("**/injected.html", (r) => r.fulfill({ contentType: "text/html", body: text }));
  await page.goto("http://localhost/injected.html");
  if (await page.evaluate(() => window.ran)) wrong.push("a script in the page has run");
  if (!(await page.locator("h1").isVisible())) wrong.push("a style that is not the page's own has counted");
  if (!refused.some((t) => t.includes("Content Security Policy"))) wrong.push(`nothing was refused: ${refused.join("; ")}`);
}

// On paper, everything is open.
{
  const page = await (await browser.newContext()).newPage();
  await page.goto(url);
  await page.pdf({ path: `${dir}/${name}.pdf`, format: "A4", printBackground: false });
}

await browser.close();
for (const line of wrong) console.log(line);
process.exitCode = wrong.length > 0 ? 1 : 0;
