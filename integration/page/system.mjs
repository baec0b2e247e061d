// system.mjs URL DIR HOST: logs in to Cockpit as people do, and works there. HOST is a program that does on the host
// what the page cannot: off, start, lock, unlock, state SNAPSHOT, disk, base. bob may do nothing, ann may use sudo.
import { readFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { accessible, end, start, step, until } from "./driver.mjs";

const [url, dir, program] = process.argv.slice(2);
const password = "correct horse";
const { browser, wrong, newPage } = await start();
const host = (...args) => execFileSync(program, args, { encoding: "utf8" }).trim();
let page;

// login opens the page in Cockpit's shell, by way of its login page.
async function login(user) {
  page = await newPage();
  await page.goto(url);
  await page.locator("#login-user-input").fill(user);
  await page.locator("#login-password-input").fill(password);
  await page.locator("#login-button").click();
  const frame = page.frameLocator('iframe[name="cockpit1:localhost/virt-rotate"]');
  await frame.getByRole("heading", { name: "Guest snapshots" }).waitFor();
  step(`${user} is logged in`);
  return frame;
}

const inside = () => page.frames().find((f) => f.name() === "cockpit1:localhost/virt-rotate");

// limited sees what is said to somebody without rights.
async function limited(frame, user) {
  const trouble = frame.locator("#trouble");
  await trouble.locator("pre.error").waitFor();
  const [sentence, error] = [await trouble.locator("p").textContent(), await trouble.locator("pre").textContent()];
  if (!sentence.includes("without administrative access")) wrong.push(`${user} is told ${sentence}`);
  if (!error.includes("permission denied") && !error.includes("authentication")) wrong.push(`of the command, ${user} sees ${error}`);
  if (await frame.locator("section.guest").count()) wrong.push(`${user} sees guests`);
  step(`${user} is told: ${sentence}\n${error.trim()}`);
  await accessible(inside(), `what ${user} is told`, wrong);
}

async function becomeAdministrator() {
  await page.locator("#super-user-indicator button, #super-user-indicator-mobile button").first().click();
  const box = page.getByRole("dialog");
  await box.locator("input[type=password]").fill(password);
  await box.getByRole("button", { name: "Authenticate" }).click();
  await box.waitFor({ state: "detached" });
}

try {
  await limited(await login("bob"), "bob");
  await page.screenshot({ path: `${dir}/shell-limited.png` });
  await page.context().close();

  const frame = await login("ann");
  await limited(frame, "ann");
  await becomeAdministrator();
  const guest = frame.locator("section.guest", { has: frame.getByRole("heading", { name: /^web-1/ }) });
  await guest.waitFor();
  await until("the trouble is over", async () => !(await frame.locator("#trouble").isVisible()));
  step("ann has administrative access, and sees the guest");

  const dialog = frame.locator("dialog[open]");
  const press = (name) => dialog.getByRole("button", { name, exact: true }).click();
  const closed = async () => { await press("Close"); await dialog.waitFor({ state: "detached" }); };
  const names = () => guest.locator(".snaps code").allTextContents();
  const said = async () => (await dialog.locator("pre").textContent()).trim();
  const again = () => frame.getByRole("button", { name: "Look again" }).click();

  for (const name of ["first", "second", "third"]) {
    await guest.getByRole("button", { name: "Take snapshot…" }).click();
    await dialog.getByLabel("Name").fill(name);
    await press("Take snapshot");
    await dialog.locator("pre", { hasText: name }).waitFor();
    await closed();
    await until(`${name} is listed`, async () => (await names()).includes(name));
    await page.waitForTimeout(1500); // the guest writes on
  }
  step("snapshots are taken");
  await frame.getByRole("button", { name: "Pin third" }).click();
  await frame.getByRole("button", { name: "Unpin third" }).waitFor();
  step("one is pinned");
  const third = host("state", "third");

  await guest.getByRole("button", { name: "Plan and run…" }).click();
  await dialog.locator("pre", { hasText: "merge" }).waitFor();
  const other = await page.context().newPage();
  await other.goto(url);
  const watched = other.frameLocator('iframe[name="cockpit1:localhost/virt-rotate"]');
  await watched.locator("section.guest").first().waitFor();
  await press("Run");
  await until("a merge is seen", async () => {
    if (await watched.locator("progress").count()) return true;
    await watched.getByRole("button", { name: "Look again" }).click();
    return false;
  });
  step(`a merge is watched: ${(await watched.locator(".job span").first().textContent()).trim()}`);
  await other.screenshot({ path: `${dir}/shell-merge.png` });
  await other.close();
  await dialog.getByRole("button", { name: "Run", exact: true }).waitFor({ state: "hidden" });
  await closed();
  await until("the first one is gone", async () => !(await names()).includes("first"));
  step("the merge is over");
  if (host("state", "third") !== third) wrong.push("the merge has changed the third state");

  // A restore of a guest that is off: its disk has the state of then.
  host("off");
  await again();
  await until("it is off", async () => (await guest.textContent()).includes("shut off"));
  const restore = dialog.getByRole("button", { name: "Restore", exact: true });
  await guest.getByRole("button", { name: "Restore…" }).click();
  await dialog.getByLabel("Snapshot").selectOption("third");
  await press("Show what it does");
  await until("it can be restored", async () => !(await restore.isDisabled()));
  await restore.click();
  await dialog.locator("pre", { hasText: /done/ }).waitFor();
  await closed();
  await until("it went back", async () => (await guest.textContent()).includes("went back to third"));
  const now = host("disk");
  if (now !== third) wrong.push(`the disk has ${now}, the snapshot has ${third}`);
  step(`the disk has the state of third: sha256 ${now}`);

  // A guest that runs, and does not obey.
  host("start");
  await again();
  await until("it runs", async () => (await guest.textContent()).includes("running"));
  await guest.getByRole("button", { name: "Restore…" }).click();
  const plug = dialog.getByLabel(/Pull the plug/);
  await dialog.getByLabel(/Shut the guest down/).uncheck();
  if (!(await plug.isDisabled())) wrong.push("the plug can be pulled of a guest that is not to be stopped");
  await dialog.getByLabel("Snapshot").selectOption("third");
  await press("Show what it does");
  await dialog.locator("pre.error", { hasText: /\S/ }).waitFor();
  step(`of a guest that runs: ${await said()}`);
  if (!(await restore.isDisabled())) wrong.push("what is refused can be done");
  await dialog.getByLabel(/Shut the guest down/).check();
  await plug.check();
  await press("Show what it does");
  await dialog.locator("pre:not(.error)", { hasText: "third" }).waitFor();
  step(`what a forced restore will do: ${await said()}`);
  const typed = dialog.getByLabel(/Type the guest/);
  for (const text of ["", "web", "web-1 ", "WEB-1"]) {
    await typed.fill(text);
    if (!(await restore.isDisabled())) wrong.push(`the plug is pulled by ${JSON.stringify(text)}`);
  }
  await typed.fill("web-1");
  await until("the name is taken", async () => !(await restore.isDisabled()));
  await accessible(inside(), "in the restore", wrong);
  await page.screenshot({ path: `${dir}/shell-restore.png` });
  // What goes wrong then is told in the command's words, and nothing has been done.
  host("lock");
  await restore.click();
  await dialog.locator("pre.error").waitFor();
  step(`while a run is at work: ${await said()}`);
  if (!(await said()).includes("virt-rotate: ")) wrong.push(`the error is not the command's: ${await said()}`);
  if (host("running") !== "running") wrong.push("a restore that failed has stopped the guest");
  host("unlock");
  if (!(await restore.isDisabled())) wrong.push("after an error it can be done without being shown again");
  await press("Show what it does");
  await until("it can be tried again", async () => !(await restore.isDisabled()));
  await restore.click();
  await dialog.locator("pre", { hasText: /done/ }).waitFor();
  step(`a forced restore: ${await said()}`);
  await closed();
  const base = host("base");
  if (base !== third) wrong.push(`the running guest builds on ${base}, the snapshot has ${third}`);
  if (host("running") !== "running") wrong.push("the guest does not run again");
  await until("the page tells of it", async () => (await guest.textContent()).includes("went back to third"));

  const [file] = await Promise.all([page.waitForEvent("download"), frame.getByRole("button", { name: "Download report" }).click()]);
  const text = await readFile(await file.path(), "utf8");
  if (!text.startsWith("<!DOCTYPE html>") || !text.includes("went back to third")) wrong.push(`the report is ${text.slice(0, 100)}`);
  step(`a report is downloaded: ${file.suggestedFilename()}`);

  for (const [width, style] of [[1280, "light"], [1280, "dark"], [390, "light"], [390, "dark"]]) {
    await page.setViewportSize({ width, height: 1000 });
    await inside().evaluate((s) => { localStorage.setItem("shell:style", s); dispatchEvent(new Event("cockpit-style")); }, style);
    await page.evaluate((s) => { document.documentElement.classList.toggle("pf-theme-dark", s === "dark"); }, style);
    await page.waitForTimeout(500);
    await page.screenshot({ path: `${dir}/shell-${width}-${style}.png` });
    await accessible(inside(), `${width} wide, ${style}`, wrong);
    const over = await inside().evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (over > 0) wrong.push(`${width} wide: ${over} pixels too wide`);
  }
} catch (ex) {
  wrong.push(ex.stack);
  await page.screenshot({ path: `${dir}/shell-failed.png` });
  wrong.push(`the page says: ${(await (inside() ?? page).locator("body").innerText()).slice(0, 3000)}`);
}
await end(browser, wrong);
