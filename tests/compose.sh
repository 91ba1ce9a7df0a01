#!/bin/bash
# The consortium of compose.yaml, for real: founded, trained, audited, walled in, cut off, healed, taken down.
# `make compose-test` runs it; it needs Docker with Compose 2.23 and 6 GB. PROFILES="demo postgres observe" is everything.
# What it prints is docs/compose-run.txt. It leaves nothing behind, and touches no other project of compose.
set -euo pipefail
cd "$(dirname "$0")/.."
PROFILES=${PROFILES:-demo}
export COMPOSE_PROJECT_NAME=consortium-test COMPOSE_PROFILES=${PROFILES// /,}
export CONSORTIUM_LEDGER_PORT=${CONSORTIUM_LEDGER_PORT:-18443} CONSORTIUM_GATEWAY_PORT=${CONSORTIUM_GATEWAY_PORT:-19443}
[[ $PROFILES != *postgres* ]] || export CONSORTIUM_DATABASE='postgresql+psycopg://ledger@/ledger?host=/run/postgresql'

say() { printf '\n# %s\n' "$*"; }
docker() { if [ "$1" = compose ]; then shift; command docker compose --progress quiet --ansi never "$@"; else command docker "$@"; fi; }
run() { printf '$ %s\n' "$*"; "$@"; }
in_a() { local service=$1; shift; run docker compose exec -T "$service" "$@"; }
fail() { echo "compose test: FAILED: $*"; exit 1; }
# Run a command that must not succeed, and show what it said last.
refused() { local said; printf '$ %s\n' "$*"; if said=$("$@" 2>&1); then fail "it was let in: $said"; fi; grep -m 1 error <<<"$said"; }
down() { COMPOSE_PROFILES=found,demo,member,postgres,observe docker compose down --volumes --remove-orphans --timeout 20 >/dev/null 2>&1 || true; }
said=$(mktemp)
trap 'code=$?; [ $code = 0 ] || docker compose logs --tail 20; down; rm -f "$said"; exit $code' EXIT
down

say "Build, found, start: it waits until everybody is healthy."
run docker compose build --quiet
run docker compose run --rm found
run docker compose up --wait --wait-timeout 180
run docker compose ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'

say "Nobody is root, nobody writes outside of a volume, and a member's container holds its own keys and no other's."
[ "$(docker compose exec -T acme sh -c 'id -u; ls /member/keys | tr "\n" " "; ls /parties/* /coordinator | grep -v -e : -e "^$"; touch /venv/x 2>/dev/null && echo writes')" = \
    "$(printf '10001\nadmin.key attest.key compute.key executor.secret node.key node.pub salt witness.key ')" ] || fail "a member's container is not walled in"
in_a acme consortium doctor --home /member

say "Two rounds, by the operator of the coordinator; one shared cost; the month's bill."
trains() { in_a coordinator consortium run "$@" --home /coordinator | tee "$said"; ! grep 'does not count' "$said" || fail "not everybody counts"; }
trains r1 --rounds 2
docker compose exec -T birch sh -c 'echo "Hosting, 12.00 EUR" > /tmp/invoice.txt'
in_a birch consortium cost --home /member --item hosting --pot services --period 2026-11 --amount 12.00 --date 2026-11-05 --invoice /tmp/invoice.txt
charter=$(docker compose run --rm --no-deps -T --entrypoint /venv/bin/python found -c \
    'from pathlib import Path; from shared_models.records.merkle import leaf_hash; print(leaf_hash(Path("/parties/acme/charter.note").read_bytes()).hex())')
run docker compose run --rm --no-deps -T -v "${COMPOSE_PROJECT_NAME}_admin:/parties/admin" --entrypoint /venv/bin/consortium acme \
    close 2026-11 --ledger http://ledger:8443 --key /parties/admin/admin.key --charter "$charter"

say "Each member audits it, from its own container, and a copy on its own disk without any network."
for member in acme birch cedar; do in_a "$member" consortium audit http://ledger:8443 --home /member; done
in_a acme consortium fetch http://ledger:8443 /member/bundle --key /member/keys/compute.key
run docker run --rm --network none --volume "${COMPOSE_PROJECT_NAME}_acme:/member" consortium-training audit /member/bundle --home /member
in_a acme consortium bill /member/bundle

say "From a member's position: Flower's control port is not there, and the gateway passes none of it."
# One line of Python in acme's container, by the authority that it trusts; it must be refused.
from_acme() { printf '$ in acme: %s\n' "$1"; if shown=$(docker compose exec -T acme python -c "import ssl, socket, urllib.request as web; trust = ssl.create_default_context(cafile='/member/ca.crt'); $1" 2>&1); then fail "it was let in"; fi; tail -n 1 <<<"$shown"; }
for path in control/start-run control/list-runs runtime/acquire-task; do
    from_acme "web.urlopen('https://coordinator:9443/v1/$path', data=b'', context=trust)"
done
for address in '"coordinator", 9092' '"ledger", 9464' '"203.0.113.1", 443'; do
    from_acme "socket.create_connection(($address), 5)"
done
say "Who is no member reads nothing."
refused docker compose exec -T acme consortium audit http://ledger:8443
refused curl --fail --silent --show-error "http://127.0.0.1:$CONSORTIUM_LEDGER_PORT/checkpoint"

say "birch is cut off while it trains: the round ends at its deadline without it, and says so."
run docker compose exec -T coordinator consortium run r2 --home /coordinator --rounds 2 --deadline 90 >"$said" 2>&1 &
until docker compose exec -T birch consortium status --home /member 2>/dev/null | grep -q '^phase  *training'; do sleep 1; done
run docker network disconnect "${COMPOSE_PROJECT_NAME}_members" "${COMPOSE_PROJECT_NAME}-birch-1"
wait $! || fail "the run did not go on: $(cat "$said")"
cat "$said"
grep -q 'birch does not count: dead' "$said" || fail "birch was not missed"

say "Healed, and the coordinator started anew: the same nodes come back by themselves."
run docker network connect "${COMPOSE_PROJECT_NAME}_members" "${COMPOSE_PROJECT_NAME}-birch-1"
run docker compose restart coordinator
run docker compose up --wait --wait-timeout 180
trains r3 --rounds 1 --deadline 180 --quorum 3
in_a birch consortium audit http://ledger:8443 --home /member

say "One more member, on a machine of its own but for this test: an invite, four words, two votes."
in_a acme consortium invite dogwood --home /member | tee "$said"
invite=$(grep -m 1 -E '^[A-Za-z0-9_.+/=-]{100,}$' "$said")
export COMPOSE_PROFILES=$COMPOSE_PROFILES,member
printf '$ docker compose run --rm member join INVITE --dir /member/node --yes\n'
docker compose run --rm -T member join "$invite" --dir /member/node --yes || [ $? = 6 ] || fail "the invite was not taken"
words=$(docker compose exec -T acme consortium invite --pending --home /member | sed -n 's/^dogwood, invited by acme: //p')
in_a acme consortium invite --admit dogwood --home /member --words "$words" | tee "$said"
amendment=$(sed -n 's/^amendment \([0-9a-f]*\) .*/\1/p' "$said")
for member in acme birch; do in_a "$member" consortium charter vote --home /member "$amendment" yes; done
docker compose run --rm -T member join "$invite" --dir /member/node
run docker compose up --wait --wait-timeout 180 member
trains r4 --rounds 1 --deadline 180 --quorum 4
in_a member consortium audit http://ledger:8443 --home /member/node

if [[ $PROFILES == *postgres* ]]; then
    say "The ledger's rows stand in PostgreSQL, which no network reaches."
    in_a db psql -U ledger -h /var/run/postgresql -Atc "select count(*) > 20 from entry"
fi
if [[ $PROFILES == *observe* ]]; then
    say "Prometheus scrapes the ledger, and has its rules."
    in_a prometheus promtool query instant http://127.0.0.1:9090 'consortium_log_entries > 20' | tee "$said"
    grep -q 'job="ledger"' "$said" || fail "Prometheus has seen no log of more than 20 entries"
    in_a prometheus promtool check rules /etc/prometheus/alerts.yml
fi

say "Down. Only the volumes are left, until they are removed too."
printf '$ docker stats\n'
docker stats --no-stream --format 'table {{.Name}}\t{{.MemUsage}}\t{{.PIDs}}' $(docker compose ps --quiet)
run docker compose down --timeout 20
run docker compose ps --all --quiet
echo
echo "compose test: passed"
