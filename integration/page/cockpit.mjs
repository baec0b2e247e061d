// cockpit.mjs URL DIR TURN-OFF NAME TEXT: does in Cockpit what an administrator does, and writes pictures into DIR.
// TURN-OFF is a program that turns the guest off; the guest g2 has a file NAME with TEXT in /home/ann. The last line tells what was restored.
import { readFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { accessible as accessibleIn, end, start, step, until } from "./driver.mjs";

const [url, dir, turnOff, letterName, letter] = process.argv.slice(2);
const { browser, wrong, newPage } = await start();
const page = await newPage();
const context = page.context();

const guest = page.locator("section.guest", { has: page.getByRole("heading", { name: /^g1/ }) });
const files = page.locator("section.guest", { has: page.getByRole("heading", { name: /^g2/ }) });
const names = () => guest.locator(".snaps code").allTextContents();
const dialog = page.locator("dialog[open]");
const press = (name) => dialog.getByRole("button", { name, exact: true }).click();
const closed = async () => { await press("Close"); await dialog.waitFor({ state: "detached" }); };
const accessible = (what) => accessibleIn(page.mainFrame(), what, wrong);

try {
  await page.goto(url);
  await guest.waitFor();
  step("the guest is seen");
  await accessible("at first");

  const take = async (name, note, pin) => {
    await guest.getByRole("button", { name: "Take snapshot…" }).click();
    await dialog.getByLabel("Name").fill(name);
    await dialog.getByLabel("Note").fill(note);
    if (pin) await dialog.getByRole("checkbox").check();
    if (name === "first") await accessible("in a dialog");
    await press("Take snapshot");
    await dialog.locator("pre", { hasText: name }).waitFor();
    await closed();
    await until(`${name} is listed`, async () => (await names()).includes(name));
    await page.waitForTimeout(1500); // the guest writes on
  };
  await take("first", `<script>window.ran = 1</script> "quoted"`, false);
  if (await page.evaluate(() => window.ran)) wrong.push("a note has become a script");
  step("a snapshot is taken");
  await take("second", "", false);
  await take("third", "", false);

  // An error is that of the command, in full.
  await guest.getByRole("button", { name: "Take snapshot…" }).click();
  await dialog.getByLabel("Name").fill("third");
  await press("Take snapshot");
  await dialog.locator("pre.error", { hasText: "third" }).waitFor();
  step(`a refusal: ${(await dialog.locator("pre.error").textContent()).trim()}`);
  await closed();

  await page.getByRole("button", { name: "Pin third" }).click();
  await page.getByRole("button", { name: "Unpin third" }).waitFor();
  step("it is pinned");

  await guest.getByRole("button", { name: "Plan and run…" }).click();
  await dialog.locator("pre", { hasText: "merge" }).waitFor();
  step("the plan is shown");
  await page.screenshot({ path: `${dir}/cockpit-plan.png` });
  // Somebody else watches.
  const other = await context.newPage();
  await other.goto(url);
  await other.locator("section.guest").first().waitFor();
  await press("Run");
  await other.getByRole("button", { name: "Look again" }).click();
  for (const last = Date.now() + 120000; ; await other.waitForTimeout(300)) {
    if (await other.locator("progress").count()) break;
    if (Date.now() > last) throw new Error("no merge is seen");
    await other.getByRole("button", { name: "Look again" }).click();
  }
  step(`a merge is watched: ${(await other.locator(".job span").first().textContent()).trim()}`);
  await other.screenshot({ path: `${dir}/cockpit-merge.png` });
  await other.close();
  await dialog.getByRole("button", { name: "Run", exact: true }).waitFor({ state: "hidden" });
  await page.screenshot({ path: `${dir}/cockpit-ran.png` });
  await closed();
  await until("the first one is gone", async () => !(await names()).includes("first"));
  step("the merge is over");

  // The plug is pulled only by who types the guest's name, and nothing is done that was not shown.
  const restore = dialog.getByRole("button", { name: "Restore", exact: true });
  await guest.getByRole("button", { name: "Restore…" }).click();
  if (!(await restore.isDisabled())) wrong.push("a restore that was not shown can be done");
  await dialog.getByLabel("Snapshot").selectOption("third");
  await dialog.getByLabel(/Pull the plug/).check();
  await press("Show what it does");
  await dialog.locator("pre", { hasText: "third" }).waitFor();
  await until("it was shown", async () => !(await dialog.getByRole("button", { name: "Close" }).isDisabled()));
  if (!(await restore.isDisabled())) wrong.push("the plug is pulled without the guest's name");
  await dialog.getByLabel(/Type the guest/).fill("g");
  if (!(await restore.isDisabled())) wrong.push("the plug is pulled with half a name");
  await dialog.getByLabel(/Type the guest/).fill("g1");
  await until("the name is taken", async () => !(await restore.isDisabled()));
  await accessible("in the restore");
  await page.screenshot({ path: `${dir}/cockpit-restore.png` });
  await dialog.getByLabel("Snapshot").selectOption("second");
  if (!(await restore.isDisabled())) wrong.push("what was shown of another snapshot counts");
  await closed();
  execFileSync(turnOff);
  await page.getByRole("button", { name: "Look again" }).click();
  await until("it is off", async () => (await guest.textContent()).includes("shut off"));
  await guest.getByRole("button", { name: "Restore…" }).click();
  await dialog.getByLabel("Snapshot").selectOption("third");
  await press("Show what it does");
  await until("it can be restored", async () => !(await restore.isDisabled()));
  await restore.click();
  await dialog.locator("pre", { hasText: /done/ }).waitFor();
  step((await dialog.locator("pre").textContent()).trim());
  await closed();
  await until("it went back", async () => (await guest.textContent()).includes("went back to third"));

  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download report" }).click()]);
  const text = await readFile(await file.path(), "utf8");
  if (!text.startsWith("<!DOCTYPE html>") || !text.includes("went back to third")) wrong.push(`the report is ${text.slice(0, 100)}`);
  step(`a report is downloaded: ${file.suggestedFilename()}`);

  // The files of a guest that has no file system: the error is the command's.
  await guest.getByRole("button", { name: "Files…" }).click();
  await dialog.getByRole("checkbox").check();
  await press("Open");
  await dialog.locator("pre.error").waitFor();
  step(`files: ${(await dialog.locator("pre.error").textContent()).trim()}`);
  await closed();

  // A file of a guest that is off.
  await files.getByRole("button", { name: "Take snapshot…" }).click();
  await press("Take snapshot");
  await dialog.locator("pre", { hasText: /done/ }).waitFor();
  await closed();
  await files.getByRole("button", { name: "Files…" }).click();
  await dialog.getByRole("checkbox").check();
  await press("Open");
  await press("home/");
  await press("ann/");
  const [copy] = await Promise.all([page.waitForEvent("download"), press(letterName)]);
  const read = await readFile(await copy.path(), "utf8");
  if (read !== letter) wrong.push(`the file has ${JSON.stringify(read)}`);
  await page.screenshot({ path: `${dir}/cockpit-files.png` });
  step(`a file is downloaded: ${copy.suggestedFilename()}`);
  await closed();

  for (const [width, style] of [[1280, "light"], [1280, "dark"], [390, "light"], [390, "dark"]]) {
    await page.setViewportSize({ width, height: 1000 });
    await page.evaluate((s) => { localStorage.setItem("shell:style", s); dispatchEvent(new Event("cockpit-style")); }, style);
    await page.waitForTimeout(300);
    await page.screenshot({ path: `${dir}/cockpit-${width}-${style}.png` });
    await accessible(`${width} wide, ${style}`);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (over > 0) wrong.push(`${width} wide: ${over} pixels too wide`);
  }
  console.log("restored: third");
} catch (ex) {
  wrong.push(ex.stack);
  await page.screenshot({ path: `${dir}/cockpit-failed.png` });
  wrong.push(`the page says: ${(await page.locator("body").innerText()).slice(0, 3000)}`);
}
await end(browser, wrong);
