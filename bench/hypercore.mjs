// Append blocks to a Hypercore, so many at a time, and print what one costs: node hypercore.mjs COUNT BYTES AT_ONCE
import Hypercore from 'hypercore'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const [count, bytes, atOnce] = process.argv.slice(2).map(Number)
const core = new Hypercore(mkdtempSync(join(tmpdir(), 'hypercore-')))
await core.ready()
const block = Buffer.alloc(bytes, 'x')
const before = process.cpuUsage()
for (let at = 0; at < count; at += atOnce) {
  await core.append(atOnce === 1 ? block : Array(atOnce).fill(block))
}
const used = process.cpuUsage(before)
console.log(JSON.stringify({ us: (used.user + used.system) / count }))
await core.close()
