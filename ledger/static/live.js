// A page that moves by itself: when the log has grown, the page is read again, and what is different in it is replaced.
// What is not different is not touched, so that focus, scrolling, open parts and "Verify here" stay as they are.

const PAUSE_MS = 60000 // Before asking again whoever has refused to be listened to.
const main = document.querySelector('main'), note = document.querySelector('#live')
const parts = element => [...element.children].map(each => each.outerHTML)
const folded = each => [each, ...each.querySelectorAll('details')].filter(found => found.matches('details'))
const named = each => each.querySelector('summary').textContent.split(':')[0]
const place = element =>
  element === main ? [] : [...place(element.parentElement), [...element.parentElement.children].indexOf(element)]
let shown = parts(main) // As the ledger has sent it, not as the reader has opened it.
let size = main.dataset.size, said = '', source, reading, again

function put(fresh) {
  const now = parts(fresh), old = [...main.children], come = [...fresh.children]
  let from = 0, behind = null
  const kept = now.map(each => { // The place that each part had before; -1 if it is another than was there.
    const at = shown.indexOf(each, from)
    from = at < 0 ? from : at + 1
    return at
  })
  const gone = old.filter((_, at) => !kept.includes(at)), added = come.filter((_, at) => kept[at] < 0)
  const open = new Set(gone.flatMap(folded).filter(each => each.open).map(named))
  const scrolled = new Map(gone.map(each => [each.ariaLabel, each.scrollLeft]))
  const focus = gone.some(each => each.contains(document.activeElement)) && place(document.activeElement)
  gone.forEach(each => each.remove())
  for (let at = now.length - 1; at >= 0; at--) {
    behind = kept[at] < 0 ? main.insertBefore(come[at], behind) : old[kept[at]]
  }
  added.flatMap(folded).forEach(each => { each.open = open.has(named(each)) })
  added.forEach(each => { each.scrollLeft = scrolled.get(each.ariaLabel) ?? 0 })
  if (focus) focus.reduce((at, step) => at?.children[step], main)?.focus({preventScroll: true})
  shown = now
  return gone.length + added.length > 0
}

async function read() {
  if (reading) { again = true; return }
  reading = true
  let wrong = 'The ledger cannot be reached'
  try {
    const answer = await fetch(location.href)
    if (answer.status === 401) wrong = 'Your session has ended'
    if (!answer.ok) throw new Error(answer.statusText)
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
    if (put(page.querySelector('main'))) said = `This page has moved on to entry ${size - 1}.`
    if (note.textContent !== said) note.textContent = said
  } catch { note.textContent = `${wrong}; this page may be behind.` }
  reading = false
  if (again) { again = false; read() }
}

function listen() {
  source?.close()
  if (document.hidden) return // A browser has few connections for one site, and a page that nobody sees needs none.
  source = new EventSource(`/events?since=${size}`)
  source.addEventListener('head', event => { size = event.data; read() })
  source.addEventListener('error', () => {
    if (source.readyState !== EventSource.CLOSED) return
    read()
    setTimeout(listen, PAUSE_MS)
  })
}

document.addEventListener('visibilitychange', listen)
listen()
