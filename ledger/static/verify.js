// "Verify here": a bill recomputed in the reader's own browser, from the log alone.
//
// It believes nothing that the ledger computes. It reads every entry, hashes them to the root that the log has signed, and
// goes through them in their order: each must be signed by who may say it, by a key that counts there. From what they say
// it computes each bill again, as `shared_models/rules` does, those before, too, and compares every number: those of the
// statements, and those that the page shows. What it cannot repeat it names; `consortium audit` leaves nothing out.

const MOST = 50_000; // Entries: more are for `consortium audit`.
const NCU = 10n ** 18n; // FLOP.
const MOST_FLOP = 2n ** 96n; // No record counts further.
const text = new TextEncoder();
export class Wrong extends Error {}

// Bytes. Notes as C2SP signed-note has them, keys too: name+id+base64(type and public key).
const bytesOf = (base64) => Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
export const hex = (bytes) => [...bytes].map((each) => each.toString(16).padStart(2, "0")).join("");
export const join = (...parts) => Uint8Array.from(parts.flatMap((each) => [...each]));
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
export const leafHash = (leaf) => sha256(join([0], leaf));
const nodeHash = (left, right) => sha256(join([1], left, right));

export async function rootOf(hashes) {
  // RFC 9162, 2.1.1. A last one without a neighbour rises as it is.
  if (hashes.length < 2) return hashes[0] ?? sha256(new Uint8Array());
  const above = [];
  for (let at = 0; at < hashes.length; at += 2) above.push(at + 1 < hashes.length ? nodeHash(hashes[at], hashes[at + 1]) : hashes[at]);
  return rootOf(await Promise.all(above));
}

export async function readKey(spelled) {
  const [, name, id, encoded] = /^([^ +]+)\+([0-9a-f]{8})\+(.+)$/.exec(spelled) ?? [];
  if (!name) throw new Wrong(`${spelled.slice(0, 40)} is not a key`);
  const raw = bytesOf(encoded);
  const hashed = await sha256(join(text.encode(`${name}\n`), raw));
  if (hex(hashed.slice(0, 4)) !== id) throw new Wrong(`the key of ${name} does not have the id ${id}`);
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
  key.imported ??= await crypto.subtle.importKey("raw", key.public, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, key.imported, line.raw, text.encode(note.text));
}

export function canonical(value) {
  // RFC 8785, as far as our records need it: no fractions, no null, keys of ASCII.
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((each) => `${JSON.stringify(each)}:${canonical(value[each])}`).join(",")}}`;
}

export async function readEntry(leaf, index, hash) {
  const note = readNote(leaf);
  const [type, json] = note.text.split("\n");
  const record = JSON.parse(json);
  if (canonical(record) !== json) throw new Wrong(`entry ${index} is not spelled in its one way`);
  return { index, hash, note, record, type, kind: type.replace(/^.*\/(.*)@v1$/, "$1"), author: note.signatures[0].name };
}

// Exact numbers: fractions of BigInt.

const gcd = (a, b) => (b ? gcd(b, a % b) : a < 0n ? -a : a);

export class Exact {
  constructor(over, under = 1n) {
    if (!under) throw new Wrong("a cost with nobody to charge it to");
    const by = gcd(over, under) * (under < 0n ? -1n : 1n);
    [this.over, this.under] = [over / by, under / by];
  }
  static of(said) {
    // As records spell it: a number, a string of one, p/q, or a decimal.
    const [, over, digits, under] = /^(-?\d+)(?:\.(\d+))?(?:\/(\d+))?$/.exec(String(said)) ?? [];
    if (over === undefined) throw new Wrong(`${said} is no number`);
    return new Exact(BigInt(over + (digits ?? "")), under ? BigInt(under) : 10n ** BigInt(digits?.length ?? 0));
  }
  plus = (other) => new Exact(this.over * other.under + other.over * this.under, this.under * other.under);
  minus = (other) => this.plus(new Exact(-other.over, other.under));
  times = (other) => new Exact(this.over * other.over, this.under * other.under);
  by = (other) => new Exact(this.over * other.under, this.under * other.over);
  floor = () => (this.over - (((this.over % this.under) + this.under) % this.under)) / this.under;
  toString = () => (this.under === 1n ? `${this.over}` : `${this.over}/${this.under}`);
}

const [ZERO, ONE] = [new Exact(0n), new Exact(1n)];
const total = (whole) => whole.reduce((one, other) => one + other, 0n);
const sum = (values) => values.reduce((total, each) => total.plus(each), ZERO);
const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const rising = (a, b) => order(a.over * b.under, b.over * a.under);
const mapped = (values, change) => Object.fromEntries(Object.entries(values).map(([who, each]) => [who, change(each, who)]));

// Rules: a cost and each member's driver in, each one's charge out (`rules.allocation`). Those of games are not here.

export const RULES = {
  proportional: (cost, drivers) => mapped(drivers, (driver) => cost.times(driver).by(sum(Object.values(drivers)))),
  equal: (cost, drivers) => RULES.proportional(cost, mapped(drivers, (driver) => (driver.over ? ONE : ZERO))),
  two_part: (cost, drivers) => {
    const [fixed, metered] = [cost.times(new Exact(1n, 4n)), cost.times(new Exact(3n, 4n))];
    const [equal, rest] = [RULES.equal(fixed, drivers), RULES.proportional(metered, drivers)];
    return mapped(drivers, (_, each) => equal[each].plus(rest[each]));
  },
  airport: (cost, drivers) => {
    // Each step in size is paid by those who need at least that size.
    const [charges, payers] = [mapped(drivers, () => ZERO), Object.keys(drivers).filter((each) => drivers[each].over)];
    const price = cost.by(drivers[payers.sort((a, b) => rising(drivers[a], drivers[b])).at(-1)] ?? ZERO);
    payers.forEach((each, at) => {
      const [below, charge] = at ? [drivers[payers[at - 1]], charges[payers[at - 1]]] : [ZERO, ZERO];
      charges[each] = charge.plus(price.times(drivers[each].minus(below)).by(new Exact(BigInt(payers.length - at))));
    });
    return charges;
  },
};

export async function settle(exact, carries, period) {
  // Whole units that sum to zero, and what is left of each: the largest fractions get the units that are left over.
  const members = Object.keys(exact);
  const due = mapped(exact, (each, who) => each.plus(carries[who] ?? ZERO));
  const nets = mapped(due, (each) => each.floor());
  const left = mapped(due, (each, who) => each.minus(new Exact(nets[who])));
  const tie = {};
  for (const each of members) tie[each] = hex(await sha256(text.encode(`${period}|${each}`)));
  const units = Number(-total(Object.values(nets)));
  for (const each of members.sort((a, b) => rising(left[b], left[a]) || order(tie[a], tie[b])).slice(0, units)) {
    nets[each] += 1n;
    left[each] = left[each].minus(ONE);
  }
  return { nets, left };
}

export function transfersOf(nets) {
  // As few as settle these nets: of up to 14 parties in as many groups as there can be that each sum to zero.
  const [found, parties] = [[], Object.keys(nets).filter((each) => nets[each]).sort()];
  for (const group of parties.length > 14 ? [parties] : groupsOf(parties, nets)) {
    const left = Object.fromEntries(group.map((each) => [each, nets[each]]));
    const most = (sign) => [...group].sort((a, b) => order(sign * left[b], sign * left[a]) || order(a, b))[0];
    for (let [payer, payee] = [most(-1n), most(1n)]; left[payer]; [payer, payee] = [most(-1n), most(1n)]) {
      const amount = -left[payer] < left[payee] ? -left[payer] : left[payee]; // The largest pay the largest, ties by name.
      [left[payer], left[payee]] = [left[payer] + amount, left[payee] - amount];
      found.push({ payer, payee, amount });
    }
  }
  return found;
}

function groupsOf(parties, nets) {
  // Sets of parties are numbers. Taking parties away one by one, `most` counts how often what is left can sum to zero.
  const [sums, most, found] = [[0n], [0], [[]]];
  for (const each of parties) sums.push(...sums.map((other) => other + nets[each]));
  const bits = parties.map((_, at) => 1 << at);
  for (let set = 1; set < sums.length; set++) {
    const fewer = bits.filter((bit) => set & bit).map((bit) => most[set ^ bit]);
    most.push(Math.max(...fewer) + (sums[set] ? 0 : 1));
  }
  for (let left = sums.length - 1; left; ) {
    const at = bits.findIndex((bit) => left & bit && most[left ^ bit] === most[left] - (sums[left] ? 0 : 1));
    found.at(-1).push(parties[at]);
    left ^= bits[at];
    if (!sums[left]) found.push([]);
  }
  return found;
}

export function plateau(losses, patience) {
  // Whether none of the last `patience` losses is below the lowest before them: stopping.plateau.
  const least = (some) => some.reduce((one, other) => (other < one ? other : one));
  return 0 < patience && patience < losses.length && least(losses.slice(-patience)) >= least(losses.slice(0, -patience));
}

export function workOf({ recipe, rounds, flop_per_token, members, steps: own }, member, first, last = first) {
  // Of this member in these rounds: pricing.rounds_flop. Of a curriculum's shorter sequences attention has less to look at.
  const { context, batch } = recipe;
  const steps = own.length ? (own[members.indexOf(member)] ?? 0) : recipe.inner_steps;
  const lengths = [recipe.shortest || context];
  while (lengths.at(-1) < context) lengths.push(2 * lengths.at(-1));
  const [begin, end, whole, many] = [first - 1, last, rounds].map((each) => BigInt(each) * BigInt(steps)).concat(BigInt(lengths.length));
  let missing = 0n; // Tokens from the lengths of a step's sequences to the context, over the rounds' steps.
  for (const [at, length] of lengths.entries()) {
    const [from, to] = [at, at + 1].map((part) => (BigInt(part) * whole + many - 1n) / many);
    const [low, high] = [from > begin ? from : begin, to < end ? to : end];
    if (low < high) missing += (high - low) * BigInt(context - length);
  }
  const attended = (heads, width) => (recipe.head_dim ? heads * recipe.head_dim : width);
  const forward = recipe.candidates > 1 ? 2 * recipe.candidates : 0; // To pick the hardest.
  const attention = (6 + forward) * recipe.layers * attended(recipe.heads, recipe.width) + 2 * recipe.teacher_layers * attended(recipe.teacher_heads, recipe.teacher_width);
  const looked = recipe.model === "gpt" ? attention : recipe.model_flop_per_position;
  const [step, tokens] = [BigInt(batch * context), (end - begin) * BigInt(batch * context)];
  return { tokens, flop: tokens * BigInt(flop_per_token) - BigInt(looked) * step * missing };
}

// The bill (`rules.statement`).

function chargesOf(pot, credit, { charter, used, gone }) {
  // What a pot charges whom: its rule divides what it holds, by what each has used of it, or else by benefit.
  const [cost, none] = [sum(Object.values(credit)), mapped(credit, () => ZERO)];
  if (pot.driver === "paid") return credit;
  if (!cost.over) return none;
  const [metered, drivers] = [pot.driver === "usage" ? used(pot.name) : {}, { ...none }];
  for (const { name, benefit } of charter.members) if (!gone.includes(name)) drivers[name] = Exact.of(benefit);
  return RULES[pot.rule](cost, Object.values(metered).some((each) => each.over) ? metered : drivers);
}

export async function statementOf(facts) {
  // All that follows from these facts: `lines`, `balances` and `transfers` as a statement has them, exact.
  const { charter, price, put, joined, past } = facts;
  const none = Object.fromEntries(charter.members.map((each) => [each.name, ZERO]));
  const [lines, exact, flop] = [[], { ...none }, mapped(none, () => 0n)];
  const say = (pot, credit, charge) => {
    for (const member of Object.keys(none)) {
      lines.push({ pot, member, credit: credit[member], charge: charge[member] });
      exact[member] = exact[member].plus(credit[member]).minus(charge[member]);
    }
  };
  for (const each of put) if (each.closed) flop[each.member] += each.flop;
  for (const pot of charter.pots) {
    const credit = { ...none };
    for (const each of put) if (each.pot === pot.name) credit[each.member] = credit[each.member].plus(each.amount);
    say(pot.name, credit, chargesOf(pot, credit, facts));
  }
  if (joined.length) {
    // Who joined pays its part of the price of all earlier work, to those who did it.
    const [done, many] = [total(Object.values(past)), new Exact(BigInt(joined.length))];
    const fee = Exact.of(charter.accession).times(price).times(new Exact(done, NCU));
    const credit = mapped(none, (_, who) => (done ? fee.times(many).times(new Exact(past[who] ?? 0n, done)) : ZERO));
    say("accession", credit, mapped(none, (_, who) => (joined.includes(who) ? fee : ZERO)));
  }
  const { nets, left } = await settle(exact, facts.carries, facts.period);
  const balances = Object.keys(none).map((member) => ({ member, flop: flop[member], net: nets[member], carry: left[member] }));
  return { ...facts, charter: facts.hash, lines, balances, transfers: transfersOf(nets) };
}

export function differences(stated, right) {
  // Each place where a statement is not what its entries say, in a sentence.
  const wrong = [];
  const compare = (where, part, said, is) => {
    if (`${said}` !== `${is}`) wrong.push(`statement ${stated.period}${where}: ${part} stated ${said}, recomputed ${is}`);
  };
  for (const part of ["start", "charter"]) compare("", part, stated[part], right[part]);
  compare("", "FLOP not spent", stated.unspent_flop, right.unspent_flop);
  compare("", "price", Exact.of(stated.price), right.price);
  for (const [name, key, parts] of [
    ["line", ["pot", "member"], ["credit", "charge"]],
    ["balance", ["member"], ["flop", "net", "carry"]],
    ["transfer", ["payer", "payee"], ["amount"]],
  ]) {
    const called = (bill) => bill[`${name}s`].map((each) => key.map((part) => each[part]).join(" "));
    const [said, is] = [stated, right].map((bill) => Object.fromEntries(called(bill).map((each, at) => [each, bill[`${name}s`][at]])));
    for (const at of Object.keys({ ...is, ...said })) {
      if (!said[at] || !is[at]) wrong.push(`statement ${stated.period}, ${name} ${at}: ${is[at] ? "left out" : "should not be there"}`);
      else for (const part of parts) compare(`, ${name} ${at}`, part, Exact.of(said[at][part]), is[at][part]);
    }
    if (!wrong.length) compare("", `its ${name}s`, called(stated), called(right));
  }
  return wrong;
}

// The books: what the entries so far say, as far as a bill needs it (`rules.agreement`, `keyring`, `accounts`).

const SPEAKERS = {
  "consortium admin": "statement rate usage price",
  "consortium coordinator": "run.manifest round.open round.close run.end",
  "consortium log": "equivocation",
  "member compute": "run.consent receipt access worth",
  "member admin": "amendment vote member.leave expert.grant served dispute resolution settlement default quote.seal quote.open access.revoke access.restore",
  "payer admin": "cost.item credit.note",
  "auditor compute": "audit.result",
  "publisher admin": "artefact",
};

export function authorOf({ kind, record }, consortium) {
  // The name of the key that must have said this; of a kind that is not known here, none.
  const [who, role] = Object.keys(SPEAKERS).find((each) => SPEAKERS[each].split(" ").includes(kind))?.split(" ") ?? [];
  const holder = record[who] ?? consortium;
  const operator = ["auditor", "publisher"].includes(who) && holder === consortium;
  return who && `${holder}/${operator ? "coordinator" : role}`;
}

export class Books {
  constructor() {
    // What statements say wrongly, what is not repeated here, and each statement with both as they were then.
    Object.assign(this, { wrong: [], beyond: [], bills: new Map(), signatures: 0 });
    // Charters that came into force, open amendments, who has left; keys, and the last entry of each author.
    Object.assign(this, { terms: [], proposed: new Map(), left: {}, keys: new Map(), chains: new Map() });
    // Receipts that no round has counted; what is not billed yet: work that was accepted, costs and what corrects them;
    // and what runs that stopped early have not trained.
    Object.assign(this, { runs: {}, receipts: new Map(), work: [], costs: [], items: new Map(), unspent: [] });
    // Disputes, and what was credited, by what they are about; rates and use, the newest last; what bills have left.
    Object.assign(this, { cases: new Map(), billed: new Map(), said: {}, carries: {}, past: {} });
  }

  most(names, needed) {
    // Whether these are so many of the members that have not left, or all of them; by default more than half.
    const present = this.charter.members.map((each) => each.name).filter((each) => !(each in this.left));
    const said = present.filter((each) => names.includes(each)).length;
    return said > 0 && said >= Math.min(needed ?? Math.floor(present.length / 2) + 1, present.length);
  }

  async take(entry) {
    // The next entry: it is signed by who may say it, and cites the last one of its author. Throws `Wrong`.
    const { index, kind, hash, record, note, author, type } = entry;
    try {
      if (!index) return await this.found(entry);
      if (type !== `${this.charter.consortium}/${kind}@v1`) throw new Wrong("it is of another log");
      const keys = note.signatures.map((each) => this.keys.get(`${each.name} ${each.id}`) ?? each);
      const due = kind.startsWith("key.") ? this.speaksFor(entry, keys) : authorOf(entry, this.charter.consortium) ?? author;
      if (author !== due) throw new Wrong(`it is not signed by a key of ${due}`);
      await this.signed(note, keys);
      const last = this.chains.get(author) ?? { hash: "0".repeat(64), seq: -1 };
      if (record.prev !== last.hash || record.seq !== last.seq + 1) throw new Wrong(`it does not follow the last one of ${author}`);
      this.chains.set(author, { hash, seq: record.seq });
      await this.add(entry, keys[0]);
    } catch (error) {
      if (error.name === "NotSupportedError") throw error; // A browser without Ed25519.
      throw new Wrong(`entry ${index}: ${error instanceof TypeError ? "what it goes by is not in the log" : error.message}`);
    }
  }

  async found({ kind, hash, record, note }) {
    if (kind !== "charter") throw new Wrong("it is no charter");
    await this.enforce(record, hash, 0);
    await this.signed(note, [...this.keys.values()].filter((each) => /\/(admin|coordinator|log)$/.test(each.name)));
  }

  async signed(note, keys) {
    for (const key of keys) if (key.end || !(await signedBy(note, key))) throw new Wrong(`it is not signed by a key of ${key.name}`);
    this.signatures += keys.length;
  }

  speaksFor({ kind, author, record: { holder, role } }, keys) {
    // Of a key speaks its holder's admin; to add one, the role's own key, too; or the admins of most members.
    const own = `${holder}/${kind === "key.add" && role !== "auditor" ? role : "admin"}`;
    const admins = keys.filter((each) => each.name.endsWith("/admin")).map((each) => each.name.split("/")[0]);
    return author === own || this.most(admins) ? author : `${holder}/admin`;
  }

  async learn(spelled) {
    const key = await readKey(spelled);
    if (!this.keys.has(`${key.name} ${key.id}`)) this.keys.set(`${key.name} ${key.id}`, { ...key, affirmed: [] });
  }

  async enforce(charter, hash, from) {
    // In force from this entry on. Where it names another coordinator, no key of the one before counts any more.
    const replaced = this.charter?.coordinator !== charter.coordinator && charter.coordinator.split("+")[0];
    for (const key of this.keys.values()) if (key.name === replaced) key.end ??= key.suspect = from - 1;
    const members = charter.members.flatMap((each) => [each.admin, each.compute, each.witness, each.attest]);
    for (const each of [charter.admin, charter.coordinator, charter.log, ...members]) await this.learn(each);
    this.terms.push({ charter, hash, from });
    this.charter = charter;
    this.proposed.clear();
  }

  async agree(index) {
    // An amendment comes into force with the entry by which enough members that are present are for it.
    for (const [hash, { charter, votes }] of this.proposed) {
      const yes = Object.keys(votes).filter((each) => votes[each] === "yes");
      if (this.most(yes, this.charter.approvals)) return this.enforce(charter, hash, index + 1);
    }
  }

  async add({ index, hash, kind, record }, key) {
    const about = this.keys.get(`${record.holder}/${record.role} ${record.id}`);
    const say = (what, value) => (this.said[what] ??= []).push({ index, value: Exact.of(value) });
    const put = (item, original) => {
      this.costs.push({ index, key, item, original, period: record.period, about: item.about, pot: item.pot, member: item.payer });
    };
    if (kind === "key.add") await this.learn(record.key);
    else if (kind === "key.revoke") Object.assign(about, { end: index, suspect: record.suspect_from });
    else if (kind === "key.affirm") about.affirmed.push({ ...record, index });
    else if (kind === "amendment") this.proposed.set(hash, { charter: record.charter, votes: {} });
    else if (kind === "vote") this.proposed.get(record.amendment).votes[record.member] = record.choice;
    else if (kind === "member.leave") this.left[record.member] = index;
    else if (kind === "run.manifest") this.runs[record.run] = { ...record, consented: [], opened: 0, closed: 0, losses: [BigInt(record.loss_unats)] };
    else if (kind === "run.consent") this.runs[record.run].consented.push(record.member);
    else if (kind === "round.open") this.runs[record.run].opened += 1;
    else if (kind === "run.end" && record.status === "stopped") this.stop(index, this.runs[record.run]);
    else if (kind === "receipt") this.receipts.set(hash, { index, key, record });
    else if (kind === "round.close") {
      this.runs[record.run].closed += 1;
      if (record.checkpoint !== record.base) this.runs[record.run].losses.push(BigInt(record.loss_unats));
      [...record.included, ...record.late].forEach((each) => this.count(index, each));
    }
    else if (kind === "rate") say(`${record.currency} ${record.date}`, record.rate);
    else if (kind === "usage") say(`${record.period} ${record.pot} ${record.member}`, record.quantity);
    else if (kind === "cost.item") {
      const item = { ...record, about: `item/${record.payer}/${record.item}`, left: Exact.of(record.amount) };
      this.items.set(item.about, item).set(hash, item);
      put(item, item.left);
    } else if (kind === "credit.note") {
      const item = this.items.get(record.item);
      item.left = item.left.minus(Exact.of(record.amount));
      put(item, ZERO.minus(Exact.of(record.amount)));
    } else if (kind === "dispute") {
      const one = { about: record.about, opened: index, rulings: {}, billed: this.billed.get(record.about) };
      if (!this.cases.has(one.about)) this.cases.set(one.about, one);
    } else if (kind === "resolution") {
      const one = this.cases.get(record.about);
      one.rulings[record.member] = record.outcome;
      const same = Object.keys(one.rulings).filter((each) => one.rulings[each] === record.outcome);
      if (this.most(same)) this.takeBack(Object.assign(one, { ruled: index, outcome: record.outcome }));
    } else if (kind === "statement") await this.state(record);
    else if (["price", "default"].includes(kind) || !authorOf({ kind, record }, "any")) this.beyond.push(`a ${kind} in entry ${index}`);
    if (["amendment", "vote", "member.leave"].includes(kind)) await this.agree(index);
  }

  count(closed, { member, receipt }) {
    // A round's close counts this receipt.
    const { index, key, record } = this.receipts.get(receipt) ?? {};
    if (record?.member !== member) throw new Wrong(`it counts a receipt of ${member} that is not there, or has counted`);
    this.receipts.delete(receipt);
    const { tokens, flop } = workOf(this.runs[record.run], member, record.round);
    if (BigInt(record.tokens) !== tokens || BigInt(record.flop) !== flop) {
      throw new Wrong(`entry ${index} says ${record.tokens} tokens and ${record.flop} FLOP, its round takes ${tokens} and ${flop}`);
    }
    const of = { about: `work/${record.run}/${record.round}/${member}`, pot: this.charter.compute_pot, member };
    this.work.push({ ...of, flop, index, key, closed });
  }

  stop(index, run) {
    // A run stops before its last round: what it has not trained is not spent (stopping.unspent).
    if (run.opened > run.closed || run.closed >= run.rounds || !plateau(run.losses, run.patience)) throw new Wrong("the losses show no plateau");
    const members = run.consented.filter((each) => !(each in this.left));
    this.unspent.push({ index, flop: total(members.map((each) => workOf(run, each, run.closed + 1, run.rounds).flop)) });
  }

  held({ about, key, index }, end) {
    // What was disputed before it was billed, and not ruled to stand; what a revoked key signed, and nobody affirmed.
    const one = this.cases.get(about);
    if (one && !one.billed && one.opened < end && !(one.ruled < end && one.outcome === "stands")) return true;
    const affirmed = key?.affirmed.some((each) => each.index < end && each.start <= index && index < each.end);
    return key?.end < end && index >= key.suspect && !affirmed;
  }

  takeBack({ about, outcome, ruled, billed }) {
    // What is void and was billed: of an item, what credit notes do not give back anyway.
    if (outcome !== "void" || !billed) return;
    const [item, { pot, member, flop }] = [this.items.get(about), billed];
    const part = item ? item.left.by(Exact.of(item.amount)) : ONE;
    this.costs.push({ pot, member, flop, index: ruled, amount: ZERO.minus(billed.amount.times(part)) });
  }

  facts({ period, end }) {
    // What the statement of this period follows from, if it covers the entries below `end`.
    const before = [...this.bills.values()].map((each) => each.bill);
    const [last, closed] = [before.at(-1), [undefined, period, ...before.map((each) => each.period)]];
    const start = last?.end ?? 0;
    const { charter, hash } = this.terms.findLast((each) => each.from <= start);
    const [price, unit] = [Exact.of(charter.price), new Exact(10n ** BigInt(charter.minor_digits))];
    const names = charter.members.map((each) => each.name);
    const standing = (what) => this.said[what]?.findLast((each) => each.index < end)?.value;
    const counts = (each) => each.closed < end && names.includes(each.member) && !this.held(each, end);
    const put = this.work.filter(counts).map((each) => ({ ...each, amount: price.times(new Exact(each.flop, NCU)) }));
    for (const each of this.costs) {
      const { about, item, original } = each;
      if (each.index >= end || !closed.includes(each.period) || this.held(each, end)) continue;
      const gives = original?.over < 0n; // A note waits for its item.
      if (gives && !this.billed.has(about) && !put.some((one) => one.about === about)) continue;
      const rate = item && item.currency !== charter.currency ? item.rate ?? standing(`${item.currency} ${item.date}`) : ONE;
      put.push(item ? { ...each, rate, gives, amount: original.times(unit).times(rate) } : each);
    }
    const unspent = total(this.unspent.filter((each) => start <= each.index && each.index < end).map((each) => each.flop));
    return {
      ...{ period, start, end, charter, hash, price, put, past: this.past, carries: this.carries },
      unspent_flop: unspent < MOST_FLOP ? unspent : MOST_FLOP,
      used: (pot) => Object.fromEntries(names.map((each) => [each, standing(`${period} ${pot} ${each}`) ?? ZERO])),
      gone: names.filter((each) => this.left[each] < start),
      joined: names.filter((each) => last && !last.balances.some(({ member }) => member === each)),
    };
  }

  async state(bill) {
    // Compare a statement with what it should be. What it bills is billed from here on.
    const facts = this.facts(bill);
    for (const { name, rule, floors, caps } of facts.charter.pots) {
      const limited = floors.length + caps.length ? " with floors or caps" : "";
      if (!(rule in RULES) || limited) this.beyond.push(`the pot ${name}, by ${rule}${limited}`);
    }
    if (facts.charter.cap !== "none") this.beyond.push("a cap by quotes");
    if ([facts.charter.worth_share, facts.charter.expert_price].some((each) => each !== "0/1")) this.beyond.push("what is paid for experts");
    if (!this.beyond.length) this.wrong.push(...differences(bill, await statementOf(facts)));
    this.bills.set(bill.period, { bill, charter: facts.charter, wrong: [...this.wrong], beyond: [...new Set(this.beyond)] });
    this.carries = Object.fromEntries(bill.balances.map((each) => [each.member, Exact.of(each.carry)]));
    for (const { member, flop } of bill.balances) this.past[member] = (this.past[member] ?? 0n) + BigInt(flop);
    const done = new Set(facts.put.map((each) => each.index));
    [this.work, this.costs] = [this.work, this.costs].map((all) => all.filter((each) => !done.has(each.index)));
    for (const each of facts.put) {
      if (!each.about) this.past[each.member] -= each.flop ?? 0n;
      if (!each.about || each.gives) continue;
      this.billed.set(each.about, each);
      if (each.item) each.item.rate = each.rate;
      if (this.cases.has(each.about)) this.takeBack(Object.assign(this.cases.get(each.about), { billed: each }));
    }
  }
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

export async function readLog(size) {
  // [leaf, hash] of every entry, each compared with the hash that the log has published for it.
  const entries = [];
  while (entries.length < size) {
    const [start, width] = [entries.length, Math.min(256, size - entries.length)];
    const [bundle, tile] = await Promise.all(["entries", 0].map((kind) => get(tilePath(kind, start / 256, width))));
    for (let at = 0, number = 0; number < width; number++) {
      const end = at + 2 + bundle[at] * 256 + bundle[at + 1];
      const leaf = bundle.slice(at + 2, end);
      const hash = await leafHash(leaf);
      if (hex(hash) !== hex(tile.slice(32 * number, 32 * number + 32))) throw new Wrong(`entry ${start + number} is not what the log has published`);
      entries.push([leaf, hash]);
      at = end;
    }
  }
  return entries;
}

export async function verify(period, pinned) {
  // What was checked of a statement, and each difference. Throws `Wrong` naming what is not right.
  const head = readNote(await get("/checkpoint"));
  const [origin, size, root] = head.text.split("\n");
  if (Number(size) > MOST) throw new Wrong(`the log has ${size} entries; more than ${MOST} are for consortium audit`);
  const log = await readLog(Number(size));
  const hashes = log.map(([, hash]) => hash);
  if (hex(await rootOf(hashes)) !== hex(bytesOf(root))) throw new Wrong("the entries do not hash to the root that the log has signed");
  const books = new Books();
  for (const [index, [leaf, hash]] of log.entries()) await books.take(await readEntry(leaf, index, hex(hash)));
  const key = await readKey(pinned || books.charter.log);
  if (key.name !== origin || !(await signedBy(head, key))) throw new Wrong(`the newest head is not signed by ${pinned || books.charter.log}`);
  if (!books.keys.has(`${key.name} ${key.id}`)) throw new Wrong("the charter names another key of the log");
  const found = books.bills.get(period);
  if (!found) throw new Wrong(`the log holds no statement ${period}`);
  const covered = hex(await rootOf(hashes.slice(0, found.bill.end)));
  if (covered !== found.bill.root) found.wrong.push(`statement ${period}: root stated ${found.bill.root}, recomputed ${covered}`);
  return { ...found, log: pinned || books.charter.log, founded: hex(hashes[0]), entries: log.length, signatures: books.signatures };
}

// On the page.

const UNITS = { 18: "EFLOP", 15: "PFLOP", 12: "TFLOP", 9: "GFLOP", 6: "MFLOP", 0: "FLOP" };
const grouped = (digits) => `${digits}`.replace(/\B(?=(\d{3})+$)/g, ",");

export function money(exact, digits, more = 4) {
  // As `rules.currency.money` spells it: exact amounts are cut after four digits more.
  const scaled = exact.times(new Exact((exact.over < 0n ? -1n : 1n) * 10n ** BigInt(more)));
  const [whole, point] = [`${scaled.floor()}`.padStart(digits + more + 1, "0"), -digits - more || undefined];
  const units = grouped(whole.slice(0, point)) + (point ? `.${whole.slice(point)}` : "");
  return `${exact.over < 0n ? "-" : ""}${units}${scaled.under === 1n ? "" : "~"}`;
}

export function shownOf(bill, { currency, minor_digits: digits }) {
  // What the page has to show of each number, by its name.
  const amount = (said, more = 4) => `${money(Exact.of(said), digits, more)} (${Exact.of(said)} minor units of ${currency})`;
  const work = (flop) => {
    const unit = [18, 15, 12, 9, 6].find((power) => BigInt(flop) >= 10n ** BigInt(power + 1)) ?? 0;
    return `${grouped(BigInt(flop) / 10n ** BigInt(unit))} ${UNITS[unit]} (${grouped(flop)} FLOP)`;
  };
  const shows = { "price of an NCU": amount(bill.price) };
  if (BigInt(bill.unspent_flop)) {
    const worth = Exact.of(bill.price).times(new Exact(BigInt(bill.unspent_flop), NCU));
    Object.assign(shows, { "not spent": work(bill.unspent_flop), "not spent, worth": amount(worth) });
  }
  for (const { member, flop, net, carry } of bill.balances) {
    const mine = bill.lines.filter((each) => each.member === member);
    const [credit, charge] = ["credit", "charge"].map((what) => sum(mine.map((each) => Exact.of(each[what]))));
    const over = Exact.of(net).plus(Exact.of(carry)).plus(charge).minus(credit);
    const carried = { "carried over": amount(over), "carried on": amount(carry) };
    const row = { net: amount(net, 0), credits: amount(credit), charges: amount(charge), ...carried, work: work(flop) };
    for (const each of Object.keys(row)) shows[`${each} of ${member}`] = row[each];
  }
  for (const part of ["credit", "charge"]) for (const each of bill.lines) shows[`line ${each.pot} ${each.member}: ${part}`] = amount(each[part]);
  for (const { payer, payee, amount: owed } of bill.transfers) shows[`transfer ${payer} ${payee}`] = amount(owed, 0);
  return shows;
}

export function shownWrong(right, shown, whole) {
  // Where the page shows another number, or leaves one out although it shows the whole bill.
  const hidden = Object.keys(right).filter((each) => whole && !shown.some(([name]) => name === each));
  const differs = shown.filter(([name, said]) => said !== right[name]);
  const wrong = hidden.map((each) => `this page does not show: ${each}`);
  return [...wrong, ...differs.map(([name, said]) => `this page shows ${said} as ${name}; the statement says ${right[name] ?? "nothing"}`)];
}

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
      const { bill, charter, wrong, beyond, ...found } = await verify(section.dataset.period, input.value.trim());
      const cells = [...document.querySelectorAll("[data-shows]")];
      const shown = cells.map((each) => [each.dataset.shows, `${each.textContent.trim()} (${each.title})`]);
      const whole = Math.max(bill.balances.length, bill.transfers.length) <= 100; // Tables show no more rows on one page.
      wrong.push(...shownWrong(shownOf(bill, charter), shown, whole));
      const did = `${found.entries} entries hash to the root that the log has signed; ${found.signatures} signatures checked`;
      const whose = input.value.trim() ? ", as you gave it" : ": compare it with what a member tells you";
      const key = `Key of the log: ${found.log}${whose}. Charter: ${found.founded}.`;
      if (wrong.length) say(false, "Not right:", ...wrong, key);
      else if (beyond.length) say(false, `${did}.`, `Not recomputed here: ${beyond.join(", ")}. Offline: consortium audit ${location.origin}`, key);
      else say(true, `Right: ${did}, and every line, net, carry and transfer recomputed, in ${Math.round(performance.now() - began)} ms.`, key);
    } catch (error) {
      say(false, error instanceof Wrong ? `Not right: ${error.message}.` : `Could not tell: ${error.message}.`);
    }
    button.disabled = false;
  });
  section.hidden = false;
}
