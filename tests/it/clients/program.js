// A worker around the client for Node, for tests: an object of options in, one line of JSON for each change of state
// out. It does what the lines of its standard input say. Times are in seconds, as in program.py.
'use strict'

const readline = require('node:readline')
const { Heartbeat } = require('../../../clients/node')

const options = JSON.parse(process.argv[2])
const heartbeat = new Heartbeat({
  connection: options.conninfo,
  workerId: options.worker_id,
  hostname: options.hostname,
  register: options.register,
  deregister: options.deregister,
  atExit: options.at_exit,
  interval: 1000 * options.interval,
  deadline: 1000 * options.deadline
})
let givenUp = 0
let handled = 0
let said = ''
heartbeat.on('givenUp', () => { givenUp++ })
heartbeat.on('trouble', text => console.error(new Date().toISOString(), text))

const state = () => ({
  worker: heartbeat.workerId ?? null,
  incarnation: heartbeat.incarnation,
  may_claim: heartbeat.mayClaim,
  given_up: givenUp
})
const say = line => console.log(JSON.stringify(line))

function look () {
  const now = JSON.stringify(state())
  if (now !== said) console.log(now)
  said = now
}

function block (seconds) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000 * seconds)
  say({ blocked: true, may_claim: heartbeat.mayClaim })
}

async function obey (command, argument) {
  if (command === 'block') block(Number(argument))
  if (command === 'probe') say({ probe: true, ...state() })
  if (command === 'handle') {
    process.on('SIGTERM', () => say({ handled: ++handled }))
    say({ handled })
  }
  if (command === 'stop' || command === 'rest') await heartbeat.stop()
  if (command === 'rest') say({ rests: true })
  if (command === 'stop' || command === 'exit') process.exit(0)
}

async function main () {
  if (options.stop_before) await heartbeat.stop()
  await heartbeat.start()
  setInterval(look, 10)
  const input = readline.createInterface({ input: process.stdin })
  input.on('line', line => obey(...line.split(' ')))
  input.on('close', () => obey('exit'))
}

main().catch(refusal => say({ refused: refusal.sqlstate }))
