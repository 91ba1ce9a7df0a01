// "Verify here": a bill recomputed in the reader's own browser, from the log alone.
//
// It believes nothing that the ledger computes. It reads every entry of the log, hashes them to the root that the log
// has signed, checks the signatures of whatever the bill follows from, adds up the work and the costs, divides them by
// the charter's rules, rounds them with what was carried over, and compares each number: that of the statement, and that
// which the page shows. Where a period holds what it cannot recompute, it says so. `consortium audit` checks all of it.

const MOST = 50_000; // Entries: more are for `consortium audit`.
const NCU = 10n ** 18n; // FLOP.
const text = new TextEncoder();

export class Wrong extends Error {}

// Bytes. Notes as C2SP signed-note has them, keys too: name+id+base64(type and public key).

const bytesOf = (base64) => Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
export const hex = (bytes) => [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("");

export function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of parts) {
    whole.set(each, at);
    at += each.length;
  }
  return whole;
}

const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
export const leafHash = (leaf) => sha256(join([0], leaf));
const nodeHash = (left, right) => sha256(join([1], left, right));

export async function rootOf(hashes) {
  // RFC 9162, 2.1.1.
  if (!hashes.length) return sha256(new Uint8Array());
  let level = hashes;
  while (level.length > 1) {
    const above = [];
    for (let at = 0; at + 1 < level.length; at += 2) above.push(nodeHash(level[at], level[at + 1]));
    const next = await Promise.all(above);
    if (level.length % 2) next.push(level.at(-1)); // A last one without a neighbour rises as it is.
    level = next;
  }
  return level[0];
}

export async function readKey(spelled) {
  const [, name, id, encoded] = /^([^ +]+)\+([0-9a-f]{8})\+(.+)$/.exec(spelled) ?? [];
  if (!name) throw new Wrong(`${spelled.slice(0, 40)} is not a key`);
  const raw = bytesOf(encoded);
  const right = hex((await sha256(join(text.encode(`${name}\n`), raw))).slice(0, 4));
  if (right !== id) throw new Wrong(`the key of ${name} does not have the id ${id}`);
  return { name, id, type: raw[0], public: raw.slice(1) };
}

export function readNote(leaf) {
  const whole = new TextDecoder("utf-8", { fatal: true }).decode(leaf);
  const end = whole.lastIndexOf("\n\n");
  if (end < 0) throw new Wrong("not a signed note");
  const signatures = whole.slice(end + 2, -1).split("\n").map((line) => {
    const [dash, name, encoded] = line.split(" ");
    if (dash !== "—" || !encoded) throw new Wrong("not a signature line");
    const raw = bytesOf(encoded);
    return { name, id: hex(raw.slice(0, 4)), raw: raw.slice(4) };
  });
  return { text: whole.slice(0, end + 1), signatures };
}

export async function signedBy(note, key) {
  // Whether this Ed25519 key has signed this note.
  const line = note.signatures.find((each) => each.name === key.name && each.id === key.id);
  if (!line || key.type !== 1) return false;
  const imported = await crypto.subtle.importKey("raw", key.public, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, imported, line.raw, text.encode(note.text));
}

export function canonical(value) {
  // RFC 8785, as far as our records need it: no fractions, no null, keys of ASCII.
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object") {
    return `{${Object.keys(value).sort().map((each) => `${JSON.stringify(each)}:${canonical(value[each])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

export async function readEntry(leaf, index, hash) {
  const note = readNote(leaf);
  const [type, json] = note.text.split("\n");
  const record = JSON.parse(json);
  if (canonical(record) !== json) throw new Wrong(`entry ${index} is not spelled in its one way`);
  return { index, hash, note, record, author: note.signatures[0].name, kind: type.replace(/^.*\/(.*)@v1$/, "$1") };
}

// Exact numbers: fractions of BigInt.

const gcd = (a, b) => (b ? gcd(b, a % b) : a < 0n ? -a : a);

export class Exact {
  constructor(over, under = 1n) {
    const by = gcd(over, under) * (under < 0n ? -1n : 1n) || 1n;
    [this.over, this.under] = [over / by, under / by];
  }
  static of(said) {
    // As records spell it: a number, a string of one, p/q, or a decimal.
    const [, over, digits, under] = /^(-?\d+)(?:\.(\d+))?(?:\/(\d+))?$/.exec(String(said)) ?? [];
    if (over === undefined) throw new Wrong(`${said} is no number`);
    return new Exact(BigInt(over + (digits ?? "")), under ? BigInt(under) : 10n ** BigInt(digits?.length ?? 0));
  }
  plus(other) {
    return new Exact(this.over * other.under + other.over * this.under, this.under * other.under);
  }
  minus(other) {
    return this.plus(new Exact(-other.over, other.under));
  }
  times(other) {
    return new Exact(this.over * other.over, this.under * other.under);
  }
  by(other) {
    return new Exact(this.over * other.under, this.under * other.over);
  }
  floor() {
    return this.over >= 0n ? this.over / this.under : -((-this.over + this.under - 1n) / this.under);
  }
  is(other) {
    return this.over === other.over && this.under === other.under;
  }
  toString() {
    return this.under === 1n ? `${this.over}` : `${this.over}/${this.under}`;
  }
}

const ZERO = new Exact(0n);
const sum = (values) => values.reduce((total, each) => total.plus(each), ZERO);

export function divide(rule, cost, weights) {
  // {member: charge}, by the driver of each.
  const payers = Object.keys(weights).filter((each) => weights[each].over > 0n);
  const total = rule === "equal" ? new Exact(BigInt(payers.length)) : sum(Object.values(weights));
  const part = (each) => (rule === "equal" ? new Exact(payers.includes(each) ? 1n : 0n) : weights[each]);
  return Object.fromEntries(Object.keys(weights).map((each) => [each, cost.times(part(each)).by(total)]));
}

export async function settle(exact, carries, period) {
  // Whole units that sum to zero, and what is left of each: the largest fractions get the units that are left over.
  const members = Object.keys(exact);
  const due = Object.fromEntries(members.map((each) => [each, exact[each].plus(carries[each] ?? ZERO)]));
  const nets = Object.fromEntries(members.map((each) => [each, due[each].floor()]));
  const left = Object.fromEntries(members.map((each) => [each, due[each].minus(new Exact(nets[each]))]));
  const tie = {};
  for (const each of members) tie[each] = hex(await sha256(text.encode(`${period}|${each}`)));
  const first = (a, b) => {
    const more = left[b].minus(left[a]).over;
    return more ? (more > 0n ? 1 : -1) : tie[a] < tie[b] ? -1 : 1;
  };
  const units = Number(-Object.values(nets).reduce((total, each) => total + each, 0n));
  for (const each of [...members].sort(first).slice(0, units)) {
    nets[each] += 1n;
    left[each] = left[each].minus(new Exact(1n));
  }
  return { nets, left };
}

// The bill.

export function beyond(entries, stated, terms) {
  // What this period holds that is not recomputed here, each in a few words.
  const found = new Set();
  const odd = ["key.add", "key.revoke", "dispute", "resolution", "credit.note", "usage", "rate", "price", "quote.open", "default"];
  for (const each of entries.slice(0, stated.index)) {
    if ([...odd, "amendment", "member.leave"].includes(each.kind)) found.add(`a ${each.kind} in entry ${each.index}`);
    if (each.kind === "round.close" && each.record.late.length) found.add(`late work in entry ${each.index}`);
    if (each.kind === "cost.item" && each.record.currency !== terms.currency) found.add(`costs in ${each.record.currency}`);
  }
  for (const pot of terms.pots) {
    const plain = ["proportional", "equal"].includes(pot.rule) && pot.driver === "benefit";
    if (!plain || pot.floors.length || pot.caps.length) found.add(`the pot ${pot.name}, by ${pot.rule} and ${pot.driver}`);
  }
  if (terms.cap !== "none") found.add("a cap");
  if (terms.worth_share !== "0/1") found.add("what is paid for experts");
  return [...found];
}

export function workOf(manifest, receipt) {
  // FLOP of the receipt's round: pricing.round_flop. Of a curriculum's shorter sequences attention has less to look at.
  const names = ["context", "batch", "layers", "width", "shortest", "inner_steps", "teacher_layers", "teacher_width"];
  const [context, batch, layers, width, shortest, steps, deep, wide] = names.map((name) => BigInt(manifest.recipe[name]));
  const lengths = [shortest || context];
  while (lengths.at(-1) < context) lengths.push(2n * lengths.at(-1));
  const whole = BigInt(manifest.rounds) * steps, end = BigInt(receipt.round) * steps, many = BigInt(lengths.length);
  const from = (part) => (BigInt(part) * whole + many - 1n) / many;
  let missing = 0n;
  lengths.forEach((length, part) => {
    const first = from(part) > end - steps ? from(part) : end - steps;
    const after = from(part + 1) < end ? from(part + 1) : end;
    if (after > first) missing += (after - first) * (context - length);
  });
  return BigInt(receipt.tokens) * BigInt(manifest.flop_per_token) - (6n * layers * width + 2n * deep * wide) * batch * context * missing;
}

export async function recomputed(entries, stated, terms) {
  // {flop, lines: {pot: {member: [credit, charge]}}, nets, left, used}: all that follows from the entries it covers.
  const bill = stated.record;
  const before = entries.slice(0, stated.index).filter((each) => each.kind === "statement").at(-1);
  const start = before ? before.record.end : 0;
  if (bill.start !== start) throw new Wrong(`the statement begins at entry ${bill.start}; the one before ended at ${start}`);
  const members = terms.members.map((each) => each.name);
  const at = new Map(entries.map((each) => [each.hash, each]));
  const flop = Object.fromEntries(members.map((each) => [each, 0n]));
  const used = [entries[0], stated];
  const run = (name) => entries.find((each) => each.kind === "run.manifest" && each.record.run === name);
  for (const close of entries.slice(start, bill.end).filter((each) => each.kind === "round.close")) {
    used.push(close);
    for (const { member, receipt } of close.record.included) {
      const found = at.get(receipt);
      const said = found?.record;
      if (found?.kind !== "receipt" || found.index >= close.index || said.member !== member || used.includes(found)) {
        throw new Wrong(`entry ${close.index} counts a receipt of ${member} that is not there, or has counted`);
      }
      const manifest = run(said.run);
      if (BigInt(said.flop) !== workOf(manifest.record, said)) {
        throw new Wrong(`entry ${found.index}: ${said.tokens} tokens are not ${said.flop} FLOP`);
      }
      flop[member] += BigInt(said.flop);
      used.push(found, manifest);
    }
  }
  const unit = new Exact(10n ** BigInt(terms.minor_digits));
  const lines = {};
  for (const pot of terms.pots) {
    const credit = Object.fromEntries(members.map((each) => [each, ZERO]));
    for (const item of entries.slice(0, bill.end).filter((each) => each.kind === "cost.item")) {
      const said = item.record;
      if (said.pot === pot.name && said.period === bill.period) {
        credit[said.payer] = credit[said.payer].plus(Exact.of(said.amount).times(unit));
        used.push(item);
      }
    }
    if (pot.name === terms.compute_pot) {
      const price = Exact.of(terms.price);
      for (const each of members) credit[each] = credit[each].plus(price.times(new Exact(flop[each], NCU)));
    }
    const weights = Object.fromEntries(terms.members.map((each) => [each.name, Exact.of(each.benefit)]));
    const cost = sum(Object.values(credit));
    const charge = cost.over ? divide(pot.rule, cost, weights) : Object.fromEntries(members.map((each) => [each, ZERO]));
    lines[pot.name] = Object.fromEntries(members.map((each) => [each, [credit[each], charge[each]]]));
  }
  const exact = Object.fromEntries(
    members.map((each) => [each, sum(Object.values(lines).map((pot) => pot[each][0].minus(pot[each][1])))]),
  );
  const carries = Object.fromEntries((before?.record.balances ?? []).map((each) => [each.member, Exact.of(each.carry)]));
  return { flop, lines, used, ...(await settle(exact, carries, bill.period)) };
}

export function differences(bill, right) {
  // Each number of the statement that is not what its entries say, in a sentence.
  const wrong = [];
  const compare = (where, what, said, true_) => {
    if (!Exact.of(said).is(true_)) wrong.push(`${where}: ${what} stated ${said}, recomputed ${true_}`);
  };
  for (const { pot, member, credit, charge } of bill.lines) {
    const where = `statement ${bill.period}, line ${pot} ${member}`;
    const line = right.lines[pot]?.[member];
    if (!line) {
      wrong.push(`${where}: should not be there`);
      continue;
    }
    compare(where, "credit", credit, line[0]);
    compare(where, "charge", charge, line[1]);
  }
  const count = Object.values(right.lines).reduce((total, each) => total + Object.keys(each).length, 0);
  if (bill.lines.length !== count) wrong.push(`statement ${bill.period}: ${bill.lines.length} lines, recomputed ${count}`);
  const moved = Object.fromEntries(Object.keys(right.nets).map((each) => [each, 0n]));
  for (const { payer, payee, amount } of bill.transfers) {
    moved[payer] -= BigInt(amount);
    moved[payee] += BigInt(amount);
  }
  if (bill.balances.length !== Object.keys(right.nets).length) wrong.push(`statement ${bill.period}: a balance is missing`);
  for (const { member, flop, net, carry } of bill.balances) {
    const where = `statement ${bill.period}, balance ${member}`;
    compare(where, "work", flop, new Exact(right.flop[member]));
    compare(where, "net", net, new Exact(right.nets[member]));
    compare(where, "carry", carry, right.left[member]);
    if (moved[member] !== right.nets[member]) wrong.push(`${where}: the transfers move ${moved[member]}`);
  }
  return wrong;
}

// Reading the log.

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Wrong(`the ledger did not answer ${path}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

export function tilePath(kind, number, width) {
  const digits = (each) => String(each).padStart(3, "0");
  let path = digits(number % 1000);
  for (let rest = Math.floor(number / 1000); rest; rest = Math.floor(rest / 1000)) path = `x${digits(rest % 1000)}/${path}`;
  return `/tile/${kind}/${path}${width < 256 ? `.p/${width}` : ""}`;
}

async function readLog(size) {
  // Every entry, each compared with the hash that the log has published for it.
  const entries = [];
  for (let start = 0; start < size; start += 256) {
    const width = Math.min(256, size - start);
    const [bundle, tile] = await Promise.all(["entries", 0].map((kind) => get(tilePath(kind, start / 256, width))));
    for (let at = 0, index = start; index < start + width; index++) {
      const length = bundle[at] * 256 + bundle[at + 1];
      const leaf = bundle.slice(at + 2, at + 2 + length);
      at += 2 + length;
      const hash = await leafHash(leaf);
      const published = tile.slice(32 * (index - start), 32 * (index - start) + 32);
      if (hex(hash) !== hex(published)) throw new Wrong(`entry ${index} is not what the log has published`);
      entries.push({ leaf, raw: hash });
    }
  }
  return entries;
}

async function keysOf(entries) {
  // Every key of an admin, a compute daemon or an operator in the charter, by name and id; all who must have signed it.
  const { record, note } = entries[0];
  if (entries[0].kind !== "charter") throw new Wrong("entry 0 is no charter");
  const spelled = ["admin", "coordinator", "log"].map((role) => record[role]);
  for (const each of record.members) spelled.push(each.admin, each.compute);
  const keys = new Map();
  for (const each of spelled) {
    const key = await readKey(each);
    keys.set(`${key.name} ${key.id}`, key);
  }
  for (const each of [record.admin, record.coordinator, record.log, ...record.members.map((one) => one.admin)]) {
    const key = await readKey(each);
    if (!(await signedBy(note, key))) throw new Wrong(`entry 0: the charter is not signed by ${key.name}`);
  }
  return keys;
}

export function authorOf({ kind, record }, consortium) {
  // Who must have said what a bill follows from.
  if (kind === "receipt") return `${record.member}/compute`;
  if (kind === "cost.item") return `${record.payer}/admin`;
  return `${consortium}/${kind === "statement" ? "admin" : "coordinator"}`;
}

export async function verify(period, pinned) {
  // What was checked of a statement, and each difference. Throws `Wrong` naming what is not right.
  const head = readNote(await get("/checkpoint"));
  const [origin, size, root] = head.text.split("\n");
  if (Number(size) > MOST) throw new Wrong(`the log has ${size} entries; more than ${MOST} are for consortium audit`);
  const leaves = await readLog(Number(size));
  if (hex(await rootOf(leaves.map((each) => each.raw))) !== hex(bytesOf(root))) {
    throw new Wrong("the entries do not hash to the root that the log has signed");
  }
  const entries = [];
  for (const [index, each] of leaves.entries()) entries.push(await readEntry(each.leaf, index, hex(each.raw)));
  const log = pinned || entries[0].record.log;
  const key = await readKey(log);
  if (key.name !== origin || !(await signedBy(head, key))) throw new Wrong(`the newest head is not signed by ${log}`);
  if (log !== entries[0].record.log) throw new Wrong("the charter names another key of the log");
  const keys = await keysOf(entries);
  const stated = entries.find((each) => each.kind === "statement" && each.record.period === period);
  if (!stated) throw new Wrong(`the log holds no statement ${period}`);
  if (hex(await rootOf(leaves.slice(0, stated.record.end).map((each) => each.raw))) !== stated.record.root) {
    throw new Wrong(`statement ${period}: it covers entries of another root`);
  }
  const terms = stated.record.charter === entries[0].hash ? entries[0].record : undefined;
  const missed = terms ? beyond(entries, stated, terms) : ["a charter that was amended"];
  const told = { log, charter: entries[0].hash, entries: entries.length, beyond: missed, bill: stated.record, digits: entries[0].record.minor_digits };
  const right = missed.length ? { used: [stated] } : await recomputed(entries, stated, terms);
  const used = new Set(right.used);
  used.delete(entries[0]); // The charter's signatures were checked above, all of them.
  for (const each of used) {
    const author = authorOf(each, entries[0].record.consortium);
    const signer = keys.get(`${author} ${each.note.signatures[0].id}`);
    if (!signer && missed.length) used.delete(each); // By a key that the charter does not have: that was said.
    else if (!signer || !(await signedBy(each.note, signer))) throw new Wrong(`entry ${each.index} is not signed by a key of ${author}`);
  }
  return { ...told, signatures: used.size, differences: missed.length ? [] : differences(stated.record, right) };
}

export function money(amount, digits, more = 4) {
  // As `shared_models.rules.currency.money` spells it: exact amounts are cut after four digits more.
  const under = amount.over < 0n;
  const size = under ? new Exact(-amount.over, amount.under) : amount;
  const scaled = size.times(new Exact(10n ** BigInt(more)));
  const whole = scaled.floor().toString().padStart(digits + more + 1, "0");
  const cut = whole.length - digits - more;
  const units = whole.slice(0, cut).replace(/\B(?=(\d{3})+$)/g, ",");
  return `${under ? "-" : ""}${units}${digits + more ? "." : ""}${whole.slice(cut)}${scaled.under === 1n ? "" : "~"}`;
}

export function shownWrong(bill, digits, rows) {
  // Where the page shows other numbers than the statement: rows of member, net, credits, charges and what is carried on.
  const wrong = [];
  for (const [member, ...shown] of rows) {
    const balance = bill.balances.find((each) => each.member === member);
    const lines = bill.lines.filter((each) => each.member === member);
    const right = [
      money(Exact.of(balance?.net ?? 0), digits, 0),
      ...["credit", "charge"].map((what) => money(sum(lines.map((each) => Exact.of(each[what]))), digits)),
      money(Exact.of(balance?.carry ?? 0), digits),
    ];
    for (const [at, what] of ["net", "credits", "charges", "carry"].entries()) {
      if (shown[at] !== right[at]) wrong.push(`this page shows ${shown[at]} as ${what} of ${member}; the statement says ${right[at]}`);
    }
  }
  return wrong;
}

// On the page.

const section = globalThis.document?.getElementById("verify");
if (section) {
  const [button, input, told] = ["button", "input", "output"].map((each) => section.querySelector(each));
  const say = (good, ...lines) => {
    told.className = good ? "good" : "warn";
    told.replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
  };
  button.addEventListener("click", async () => {
    button.disabled = true;
    say(true, "Reading the log…");
    const began = performance.now();
    try {
      if (!globalThis.isSecureContext) throw new Error("browsers check signatures on pages of https or of this machine only");
      const found = await verify(section.dataset.period, input.value.trim());
      const rows = [...document.querySelectorAll("tr[data-member]")].map((row) => {
        const cells = [...row.querySelectorAll("td")].map((each) => each.textContent.trim());
        return [row.dataset.member, ...cells.slice(0, 3), cells[4]];
      });
      const wrong = [...found.differences, ...shownWrong(found.bill, found.digits, rows)];
      const did = `${found.entries} entries hash to the root that the log has signed; ${found.signatures} signatures checked`;
      if (wrong.length) say(false, "Not right:", ...wrong);
      else if (found.beyond.length) say(false, `${did}.`, `Not recomputed here: ${found.beyond.join(", ")}. Run consortium audit.`);
      else say(true, `Right: ${did}, and every line, net and carry recomputed, in ${Math.round(performance.now() - began)} ms.`);
      told.append(Object.assign(document.createElement("p"), { textContent: `Key of the log: ${found.log}${input.value.trim() ? ", as you gave it" : ": compare it with what a member tells you"}. Charter: ${found.charter}.` }));
    } catch (error) {
      say(false, error instanceof Wrong ? `Not right: ${error.message}.` : `Could not tell: ${error.message}.`);
    }
    button.disabled = false;
  });
  section.hidden = false;
}
