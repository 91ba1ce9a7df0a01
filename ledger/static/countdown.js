// How long a deadline is off, second by second. What it is counted from the page says, by the ledger's clock; the
// reader's own clock says only how long ago that was, so it need not be right. Without this script the page stands still.

const UNITS = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']]
const seen = new WeakMap() // When the reader's clock saw each countdown first: a page that moves on brings new ones.

export function lasting(ms) { // As ledger/shown.py has it: in the two largest units.
  let rest = Math.floor(ms / 1000)
  const parts = UNITS.map(([seconds, unit]) => {
    const many = Math.floor(rest / seconds)
    rest %= seconds
    return [many, unit]
  })
  const first = parts.findIndex(([many]) => many)
  return parts.slice(first, first < 0 ? undefined : first + 2).map(each => each.join(' ')).join(' ')
}

export const remaining = ms => ms < 0 ? `passed ${lasting(-ms)} ago` : `in ${lasting(ms)}`

function tick() {
  for (const each of document.querySelectorAll('[data-left-ms]')) {
    if (!seen.has(each)) seen.set(each, Date.now())
    const left = each.dataset.leftMs - (Date.now() - seen.get(each)), said = remaining(left)
    each.classList.toggle('warn', left < 0)
    if (each.textContent !== said) each.textContent = said
  }
}

tick()
setInterval(tick, 500)
