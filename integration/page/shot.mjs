// shot.mjs FILE DIR NAME ANCHOR: pictures of a page from an anchor on, in all widths and colours.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.PAGE_MODULES + "/");
const { chromium } = require("playwright-core");
const [file, dir, name, anchor = ""] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of [[1280, 1180], [390, 1180]]) {
    const page = await (await browser.newContext({ viewport: { width, height }, colorScheme })).newPage();
    await page.goto(pathToFileURL(file).href + anchor);
    await page.screenshot({ path: `${dir}/${name}-${width}-${colorScheme}.png` });
  }
}
await browser.close();
