"""Commands that try out the rules of money: what a rule would charge whom, what training would cost, and alone."""

import hashlib
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_models.command import MONEY, RIGHT, WRONG, Command
from shared_models.records.refusals import Refusal, Refused

if TYPE_CHECKING:
    from shared_models.rules.games import Game
    from shared_models.rules.quote import Quote

SAMPLED = "sampled"  # The rule that is for information only: no pot can have it.
NUMBER = re.compile(r"-?\d{1,30}(?:/\d{1,30}|(?:\.\d{1,30})?(?:[eE]\+?\d{1,2})?)")


def number(text: object) -> Fraction:
    """An exact number: a decimal such as 12.50 or 3.8e25, or a fraction such as 1/3. Raises `Refused(BAD_FIELD)`."""
    if not isinstance(text, str) or not NUMBER.fullmatch(text):
        raise Refused(Refusal.BAD_FIELD, f"{text} is no number: write 12, 12.50 or 1/3")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise Refused(Refusal.BAD_FIELD, f"{text} divides by zero") from None


def _allocate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "rule", help="proportional, equal, two_part, airport; of a cost table shapley, scrb, nucleolus; or sampled"
    )
    parser.add_argument("file", type=Path, help="JSON, amounts in minor units")
    parser.add_argument("--period", default="", help="a tie in rounding falls as in a statement of this period")
    parser.add_argument(
        "--samples", type=int, default=1000, help="for sampled: so many orders of joining, default 1000"
    )
    parser.add_argument(
        "--log", help="and the log whose root draws them: a folder, a zip file or the ledger's address,"
    )
    parser.add_argument("--key", type=Path, help="ask by this key a ledger for members only;")
    parser.add_argument("--size", type=int, help="when it had so many entries; default all of them")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.epilog = (
        'FILE is {"cost": 9000, "drivers": {"acme": 2, "birch": "1/3"}}, if you like with "floors" and "caps" by'
        ' member; or a table of what each coalition would cost by itself: {"costs": {"acme": 60, "birch": 50,'
        ' "acme birch": 90}}; for scrb also {"cost": 90, "alone": {...}, "without": {...}}.'
        ' For sampled it is what is bought together: {"demand": {"acme": 30, "birch": 80}, "fixed": 500, "blocks":'
        ' [{"upto": 100, "price": 9}, {"price": 6}]}: the Shapley value of what joining saves, estimated, to be known'
        " and never charged. Agree on FILE and on a size before the log has it: then nobody has chosen what is drawn."
    )


def _allocate(args: Namespace) -> int:
    """Print what each member is charged, exactly and in whole minor units. Nothing is entered anywhere."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # What thousands of members pay by size are fractions of thousands of digits.
    try:
        return _divide(args)
    finally:
        sys.set_int_max_str_digits(digits)


def _divide(args: Namespace) -> int:
    from shared_models.rules.games import worst_coalition
    from shared_models.rules.statement import settle

    asked = _asked(args.file)
    if args.rule == SAMPLED:
        return _estimate(args, asked)
    cost, charges, game = _charges(args.rule, asked)
    if cost.denominator != 1:
        raise Refused(Refusal.BAD_FIELD, f"the cost is {cost}: whole minor units are divided")
    nets, _ = settle({**charges, "": -cost}, {}, args.period)  # No member has the empty name: it is who was paid.
    rounded = {member: nets[member] for member in sorted(charges)}
    worst = worst_coalition(game, charges) if game else None
    if args.json:
        told: dict[str, Any] = {"schema": "consortium.allocation/1", "rule": args.rule, "cost": int(cost)}
        told["charges"] = {
            member: {"exact": str(charges[member]), "rounded": amount} for member, amount in rounded.items()
        }
        if worst:
            told["worst_coalition"] = {"members": worst.coalition, "slack": str(worst.slack)}
        print(json.dumps(told))
        return RIGHT
    wide = max(len("the cost"), *map(len, rounded))
    for member, amount in rounded.items():
        print(f"{member:{wide}}{amount:>16,}  {charges[member]}")
    print(f"{'the cost':{wide}}{int(cost):>16,}")
    if worst:
        who, slack = " ".join(worst.coalition), worst.slack
        less, more = f"{who} would pay {-slack} less alone", f"the nearest to it, {who}, would pay {slack} more"
        print(less if slack < 0 else f"nobody would pay less alone; {more}")
    return RIGHT


def _estimate(args: Namespace, asked: Any) -> int:
    """Print what each would pay by the Shapley value of a tariff, and how far from it that may be."""
    from shared_models.published import fetch, reader
    from shared_models.records.keys import SigningKey
    from shared_models.records.merkle import Tree, leaf_hash
    from shared_models.records.tlog import unsigned
    from shared_models.rules.games import Block, Tariff, sampled_shapley

    asked = _fields(asked, {"demand", "blocks"}, "fixed")
    if args.log is None:
        raise Refused(Refusal.BAD_FIELD, "say with --log which log's root draws the samples")
    if not isinstance(asked["blocks"], list):
        raise Refused(Refusal.BAD_FIELD, "the blocks of a tariff are a list: see --help")
    blocks = [_numbers(_fields(each, {"price"}, "upto")) for each in asked["blocks"]]
    tariff = Tariff(number(asked.get("fixed", "0")), tuple(Block(each.get("upto"), each["price"]) for each in blocks))
    exact = _numbers(asked["demand"])
    demand = {member: int(units) if units.denominator == 1 else units for member, units in exact.items()}  # For speed.
    if not demand or min(demand.values()) < 0:
        raise Refused(Refusal.BAD_FIELD, "a demand of nothing at least, of one member at least")
    log, tree = fetch(reader(args.log, None if args.key is None else SigningKey.load(args.key))), Tree()
    tree.extend(map(leaf_hash, log.leaves))
    if tree.root() != unsigned(log.head).root:
        raise Refused(Refusal.CORRUPT, "the log's entries do not come to its root")
    size = tree.size if args.size is None else args.size
    if not 0 < size <= tree.size:
        raise Refused(Refusal.NOT_FOUND, f"the log has {tree.size} entries, and not yet {size}")
    seed = hashlib.sha256(tree.root(size) + hashlib.sha256(args.file.read_bytes()).digest())
    everything = sum(demand.values())
    found = sampled_shapley(
        lambda members: tariff.cost(sum(map(demand.__getitem__, members))),
        {member: tariff.adds(units, everything - units) for member, units in demand.items()},
        args.samples,
        seed.digest(),
    )
    if args.json:
        told: dict[str, Any] = {"schema": "consortium.estimate/1", "cost": str(tariff.cost(everything))}
        told |= {"seed": seed.hexdigest(), "log_size": size, "samples": args.samples, "risk": "1/20"}
        estimates = {name: {"value": str(each.value), "bound": str(each.bound)} for name, each in found.items()}
        print(json.dumps({**told, "estimates": estimates}))
        return RIGHT
    wide = max(len("the cost"), *map(len, found))
    for member, each in sorted(found.items()):
        print(f"{member:{wide}}{_cents(each.value):>19}  ± {_cents(each.bound)}")
    print(f"{'the cost':{wide}}{_cents(tariff.cost(everything)):>19}")
    print(
        f"{args.samples} orders, drawn by the log's root of {size} entries; all bounds hold at once in 19 of 20 cases"
    )
    return RIGHT


def _charges(rule: str, asked: Any) -> tuple[Fraction, dict[str, Fraction], "Game | None"]:
    """The cost, what this rule charges whom, and the game if a whole cost table was given."""
    from shared_models.rules.allocation import RULES, bounded
    from shared_models.rules.games import TABLE_RULES, Game, scrb

    if rule in RULES:
        asked = _fields(asked, {"cost", "drivers"}, "floors", "caps")
        cost = number(asked["cost"])
        drivers, floors, caps = (_numbers(asked.get(name, {})) for name in ("drivers", "floors", "caps"))
        charges = RULES[rule](cost, drivers)
        return cost, bounded(cost, charges, floors, caps) if floors or caps else charges, None
    if rule not in TABLE_RULES:
        raise Refused(Refusal.BAD_FIELD, f"no rule is called {rule}: {', '.join([*RULES, *TABLE_RULES, SAMPLED])}")
    if rule == "scrb" and "costs" not in asked:
        asked = _fields(asked, {"cost", "alone", "without"})
        cost = number(asked["cost"])
        return cost, scrb(cost, _numbers(asked["alone"]), _numbers(asked["without"])), None
    table = _numbers(_fields(asked, {"costs"})["costs"])
    costs = {frozenset(names.split()): cost for names, cost in table.items()}
    if len(costs) < len(table):
        raise Refused(Refusal.BAD_FIELD, "the table names a coalition twice")
    game = Game.of(costs)
    return game.total, TABLE_RULES[rule](game), game


def _asked(path: Path) -> Any:
    """The JSON of this file, its numbers as text, so that none becomes a float. Raises `Refused`."""
    try:
        return json.loads(path.read_bytes(), parse_int=str, parse_float=str, object_pairs_hook=_once)
    except OSError as error:
        raise Refused(Refusal.NOT_FOUND, f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(Refusal.BAD_FIELD, f"{path} is no JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise Refused(Refusal.BAD_FIELD, "a name stands twice in one JSON object")
    return found


def _fields(asked: Any, needed: set[str], *allowed: str) -> dict[str, Any]:
    if not isinstance(asked, dict) or not needed <= asked.keys() <= {*needed, *allowed}:
        raise Refused(Refusal.BAD_FIELD, f"for this rule the file has {', '.join(sorted(needed))}: see --help")
    return asked


def _numbers(asked: Any) -> dict[str, Fraction]:
    if not isinstance(asked, dict):
        raise Refused(Refusal.BAD_FIELD, "a number by name is asked for: see --help")
    return {name: number(value) for name, value in asked.items()}


def _hardware(parser: ArgumentParser, *, required: bool) -> None:
    """What a chip costs, and what it draws."""
    parser.add_argument("--price", required=required, help="of a chip with its share of the server, when bought")
    parser.add_argument("--years", default="0", help="from then to the start of training; default 0")
    parser.add_argument("--watts", required=required, help="rated power of a chip")
    parser.add_argument("--kwh", required=required, help="the price of a kWh")
    parser.add_argument("--pue", default="1.25", help="energy of the building / of the servers; default 1.25")
    parser.add_argument("--overhead", default="1.64", help="price with the server / of the bare chip; default 1.64")
    parser.add_argument("--server-power", default="1.8", help="server / chips; H100 51/28, A100 65/32; default 1.8")
    parser.add_argument("--load", default="0.75", help="power drawn / rated; TPU 0.43; default 0.75")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _on(args: Namespace, hours: Fraction) -> "Quote":
    """What so many chip-hours of this hardware cost."""
    from shared_models.rules.quote import Training, quote, value_after

    return quote(
        Training(
            chip_hours=hours,
            server_value=value_after(number(args.price), number(args.years)),
            server_overhead=number(args.overhead),
            chip_watt=number(args.watts),
            server_power=number(args.server_power),
            load=number(args.load),
            pue=number(args.pue),
            price_per_kwh=number(args.kwh),
        )
    )


def _quote_arguments(parser: ArgumentParser) -> None:
    _hardware(parser, required=True)
    parser.add_argument("--chip-hours", help="number of chips × hours of training,")
    parser.add_argument("--flop", help="or how much work it is, such as 3.8e25,")
    parser.add_argument("--peak", help="with the peak FLOP/s of a chip, such as 989.4e12,")
    parser.add_argument("--mfu", default="0.375", help="and the share of it that training reaches; default 0.375")
    parser.epilog = "All prices in one currency. The cost model and its defaults are Epoch AI's (arXiv:2405.21015)."


def _quote(args: Namespace) -> int:
    """Print what training alone would cost, by part."""
    from shared_models.rules.quote import chip_hours

    if (args.chip_hours is None) == (args.flop is None) or (args.flop is None) != (args.peak is None):
        raise Refused(Refusal.BAD_FIELD, "give --chip-hours, or --flop and --peak")
    hours = number(args.chip_hours) if args.flop is None else chip_hours(*map(number, (args.flop, args.peak, args.mfu)))
    found = _on(args, hours)
    parts = {name: getattr(found, name) for name in ("chips", "servers", "network", "energy", "total")}
    told = {"chip_hours": _cents(hours)} | {name: _cents(part) for name, part in parts.items()}
    if args.json:
        plain = {name: amount.replace(",", "") for name, amount in told.items()}
        print(json.dumps({"schema": "consortium.quote/1", **plain}))
    else:
        for name, amount in told.items():
            print(f"{name.replace('_', ' '):12}{amount:>20}")
    return RIGHT


def _plan_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("log", help="a log: a folder, a zip file, or the ledger's address")
    parser.add_argument("--key", type=Path, help="ask by this key a ledger for members only")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--loss", help="to come to, in nats per byte, such as 1.2; or")
    target.add_argument("--budget", help="for accepted work, in units of the charter's currency")
    parser.add_argument("--run", action="append", default=[], help="plan by this run; may be repeated; default all")
    _hardware(parser, required=False)
    parser.epilog = "With --price, --watts and --kwh of a chip: also what it would cost each member to train it alone."


def _plan(args: Namespace) -> int:
    """Print what a run would take. 1 if the log is not right: then nothing is planned by it."""
    from client import plan
    from client.notebook import Ledger
    from shared_models.rules.currency import money

    loss, budget = (None if each is None else number(each) for each in (args.loss, args.budget))
    if loss is not None and loss <= 0:
        raise Refused(Refusal.BAD_FIELD, f"a loss of {args.loss}: it is above zero")
    hardware = [each for each in (args.price, args.watts, args.kwh) if each is not None]
    if len(hardware) not in (0, 3):
        raise Refused(Refusal.BAD_FIELD, "give --price, --watts and --kwh, or none of them")
    log = Ledger.connect(args.log, key=args.key)
    if log.findings:
        print(f"this log is not right, and nothing is planned by it: consortium audit {args.log}", file=sys.stderr)
        return WRONG
    unit = 10**log.charter.minor_digits
    found, without = plan.plans(
        log,
        args.run,
        loss=None if loss is None else float(loss),
        budget=None if budget is None else budget * unit,
    )
    best, said = found[0], plan.receipts(log, found[0].run)
    shares = plan.members(log, best, said)
    cost = sum((charge for _, charge in shares.values()), Fraction(0))
    hours = {name: said[name].chip_hours(best.flop) if name in said else None for name in shares}
    alone = {name: _on(args, each).total * unit for name, each in hours.items() if hardware and each is not None}
    whole = sum(said.values(), plan.Said())
    kwh = whole.kwh(best.flop)
    far = best.rounds > plan.BEYOND * best.seen
    if args.json:
        told: dict[str, Any] = {"schema": "consortium.plan/1", "run": best.run, "rounds_seen": best.seen}
        told |= {"rounds": best.rounds, "rounds_least": best.least, "rounds_most": best.most, "tokens": best.tokens}
        told |= {"loss": best.loss, "loss_least": best.lowest, "loss_most": best.highest, "beyond": far}
        told |= {"flop": str(best.flop), "cost": str(cost), "ms": best.rounds * best.round_ms}
        told |= {"kwh": None if kwh is None else float(kwh), "measured": whole.measured, "receipts": whole.receipts}
        told["members"] = {
            name: {
                "credit": str(credit),
                "charge": str(charge),
                "chip_hours": None if hours[name] is None else str(hours[name]),
                "alone": str(alone[name]) if name in alone else None,
            }
            for name, (credit, charge) in shares.items()
        }
        others = {each.run: {"flop": str(each.flop), "loss": each.loss} for each in found[1:]}
        print(json.dumps(told | {"others": others, "without": without}))
        return RIGHT
    recipe, most = best.manifest.recipe, "no bound" if best.most is None else f"{best.most:,}"
    rows = [
        (
            "by",
            f"{best.run}: {recipe.layers} layers of {recipe.width}, {best.seen} rounds seen; no other size than seen",
        ),
        ("loss", f"{best.loss:.3f}, between {best.lowest:.3f} and {best.highest:.3f} nats per byte"),
        ("rounds", f"{best.rounds:,}, between {best.least:,} and {most}"),
        ("tokens", f"{best.tokens:,}"),
        ("work", f"{best.flop:,} FLOP, {float(best.ncu):.6g} NCU"),
        ("worth", f"{money(cost, log.charter)} {log.charter.currency} at the price in force"),
        ("time", f"{best.rounds * best.round_ms / 3_600_000:,.2f} h, as the median round"),
        ("energy", _energy(kwh, whole.measured, whole.receipts)),
    ]
    for name, text in rows:
        print(f"{name:8}{text}")
    print(f"{'':16}{'work':>16}{'charge':>16}{'chip-hours alone':>18}{'cost alone':>16}")
    for name, (credit, charge) in shares.items():
        chips = "" if (each := hours[name]) is None else _cents(each)
        own = money(alone[name], log.charter) if name in alone else ""
        print(f"{name:16}{money(credit, log.charter):>16}{money(charge, log.charter):>16}{chips:>18}{own:>16}")
    for other in found[1:]:
        print(f"by {other.run} it would be {other.flop:,} FLOP and a loss of {other.loss:.3f}")
    for why in without.values():
        print(f"left out: {why}")
    if far:
        print(f"BEYOND {plan.BEYOND} times the rounds seen: the loss may well be outside of what is said here")
    print(
        "the band is what laws fitted to parts of the run say, with and without a rest: no promise (docs/the-bill.md)"
    )
    return RIGHT


def _energy(kwh: Fraction | None, measured: int, receipts: int) -> str:
    if kwh is None:
        return f"none of {receipts} receipts measured it"
    return f"{float(kwh):.6g} kWh, by {measured} of {receipts} receipts that measured it"


def _cents(amount: Fraction) -> str:
    """To two digits after the point, half to even."""
    whole, rest = divmod(round(amount * 100), 100)
    return f"{whole:,}.{rest:02}"


COMMANDS = (
    Command("allocate", MONEY, "Divide a cost by a rule, to try it out.", _allocate_arguments, _allocate, beside=True),
    Command("plan", MONEY, "Plan a run.", _plan_arguments, _plan, beside=True),
    Command("quote", MONEY, "What training alone would cost.", _quote_arguments, _quote),
)
