// What the page asks of the host: our own program, with the rights that the user has or can get.
// What it says when something goes wrong is told in full.

const options = { superuser: "try", err: "message", environ: ["LC_ALL=C.UTF-8"] };

// run carries out virt-rotate and returns what it prints; told gets it as it comes, and what goes to
// standard error with it. A command that fails or refuses tells why in both places.
export function run(args, told) {
  const process = cockpit.spawn(["virt-rotate", ...args], { ...options, err: told ? "out" : "message" });
  let some = false;
  if (told) process.stream((text) => { some = true; told(text); });
  return new Promise((done, failed) => process.then(done, (ex, data) => failed(new Failed(args, ex, data, some))));
}

// json is what a command prints with --output=json.
export async function json(args) {
  return JSON.parse(await run(args));
}

// A Failed command: its message is what the program said.
export class Failed extends Error {
  constructor(args, ex, data, told) {
    super([data, explained(ex, data || told)].filter(Boolean).map((text) => text.trim()).join("\n"));
    this.command = ["virt-rotate", ...args].join(" ");
    this.status = ex.exit_status;
  }
}

function explained(ex, told) {
  if (ex.problem === "not-found") return "virt-rotate is not installed on this host.";
  if (ex.problem === "access-denied") return "This needs administrative access: use the button for it at the top of Cockpit.";
  if (told && ex.exit_status && /exited with code/.test(ex.message)) return ""; // Cockpit's words, where there are better ones
  const said = (ex.message || ex.problem || String(ex)).trim();
  try {
    return JSON.parse(said).error || said; // of a command that was asked for JSON
  } catch {
    return said;
  }
}

// copied copies a file of a snapshot to a directory of its own, reads it from there, and takes it away.
export async function copied(from, flags) {
  const dir = (await cockpit.spawn(["mktemp", "-d", "/var/tmp/virt-rotate-XXXXXXXX"], options)).trim();
  try {
    await run(["cp", "--quiet", ...flags, "--", from, `${dir}/file`]);
    const pieces = [];
    const read = cockpit.spawn(["cat", "--", `${dir}/file`], { ...options, binary: true });
    read.stream((data) => { pieces.push(data.slice()); });
    await read;
    return new Blob(pieces);
  } finally {
    await cockpit.spawn(["rm", "-rf", "--", dir], options);
  }
}

// save hands the browser a file.
export function save(blob, name) {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(blob);
  a.download = name;
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(a.href), 60000);
}
