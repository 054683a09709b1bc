// The thread that beats. It shares some numbers with the program, see index.js, and tells the rest by messages.
'use strict'

const { setTimeout: sleep } = require('node:timers/promises')
const { parentPort, workerData } = require('node:worker_threads')
const { CallFailed, Session } = require('./session.js')

const REGISTER = 'SELECT id, incarnation FROM rgrid_register($1::text, $2::text)'
const ATTACH = 'SELECT rgrid_attach($1::text, $2::text)'
const BEAT = 'SELECT rgrid_heartbeat($1::text, $2::text)'
const DEREGISTER = 'SELECT rgrid_deregister($1::text)'

// No such function, no right to call it, not preloaded: then heartbeats alone have to do on this connection.
const CANNOT_ATTACH = ['42883', '42501', '55000']
const READ_ONLY = '25006'
// A connection that did not last so many milliseconds is not replaced at once.
const SHORT_LIFE = 1000

const { cells, cell, options } = workerData
const { hosts, hostname, interval, deadline, limit } = options

/** @type {string | undefined} */
let worker = options.workerId
let mustRegister = options.register
let statement = BEAT
/** @type {number | undefined} */
let incarnation
let heard = false
/** @type {Session | undefined} */
let session
let host = 0
let finishing = false
let alarm = new AbortController()

/** @param {object} message */
const tell = message => parentPort?.postMessage(message)

/** @param {any} error */
const refuse = error => tell({ refused: { message: error.message, sqlstate: error.sqlstate } })

async function run () {
  let pause = 0
  while (!finishing) pause = await round(pause)
  await leave()
}

/** Waits, then beats. Answers how long to wait then. @param {number} pause */
async function round (pause) {
  try {
    await wait(pause)
    if (finishing) return 0
    const began = { monotonic: process.hrtime.bigint(), wall: BigInt(Date.now()) }
    const number = await beat()
    noteAnswer(began, number)
    return interval
  } catch (error) {
    if (!(error instanceof CallFailed)) throw error
    return noteTrouble(error)
  }
}

/** So long, or until the connection ends or the program wants the thread to. @param {number} ms */
async function wait (ms) {
  if (!session?.gone && !finishing) {
    alarm = new AbortController()
    await sleep(ms, undefined, { signal: alarm.signal }).catch(() => {})
  }
  if (session?.gone) throw new CallFailed(session.gone.message)
}

/** The incarnation that the database answers. */
async function beat () {
  if (session === undefined) {
    session = await connect()
    statement = options.attach ? ATTACH : BEAT
  }
  if (mustRegister) {
    const [id, number] = await session.call(REGISTER, [worker, hostname], deadline)
    worker = id
    incarnation = Number(number)
    mustRegister = false
  }
  try {
    return Number((await session.call(statement, [worker, hostname], deadline))[0])
  } catch (error) {
    const cannot = error instanceof CallFailed && CANNOT_ATTACH.includes(error.sqlstate ?? '')
    if (statement === BEAT || !cannot) throw error
  }
  statement = BEAT
  return Number((await session.call(BEAT, [worker, hostname], deadline))[0])
}

/** To the first server that answers, from the last one that did on. */
async function connect () {
  for (let attempt = 1; ; attempt++) {
    const candidate = new Session(hosts[host], () => {
      if (candidate === session) alarm.abort()
    })
    try {
      await candidate.connect(deadline)
      // A standby refuses heartbeats. Asked here, so that the next server is tried without a pause.
      const [readOnly] = await candidate.call('SHOW transaction_read_only', [], deadline)
      if (readOnly === 'on') throw new CallFailed('the session is read-only', READ_ONLY)
      return candidate
    } catch (error) {
      await candidate.close()
      host = (host + 1) % hosts.length
      if (attempt === hosts.length) throw error
    }
  }
}

/** @param {{ monotonic: bigint, wall: bigint }} began when the call that was answered did @param {number} number */
function noteAnswer (began, number) {
  const givenUp = incarnation !== undefined && incarnation !== number
  incarnation = number
  heard = true
  // In this order: whoever sees that a job may be claimed sees the new number, too.
  Atomics.store(cells, cell.incarnation, BigInt(number))
  Atomics.store(cells, cell.heardMonotonic, began.monotonic)
  Atomics.store(cells, cell.heardWall, began.wall)
  Atomics.store(cells, cell.answered, 1n)
  tell({ worker, incarnation, givenUp })
}

/**
 * Whatever it is, the next attempt is one on a new connection: at once, if this one has served for a while, and
 * otherwise after a random pause, lest all workers come back at the same moment. At the start some are final.
 * @param {CallFailed} error
 */
async function noteTrouble (error) {
  Atomics.store(cells, cell.answered, 0n)
  if (error.final && !heard) {
    refuse(error)
    finishing = true
  } else {
    tell({ trouble: error.message })
  }
  if (error.late || error.sqlstate === READ_ONLY) host = (host + 1) % hosts.length
  const atOnce = session !== undefined && Date.now() - session.began > SHORT_LIFE
  await close()
  return atOnce ? 0 : Math.min(interval, 500 + 1000 * Math.random())
}

async function leave () {
  // The first attempt may only find out that the connection has been broken for a while.
  for (let attempt = 0; options.deregister && incarnation !== undefined && attempt < 2; attempt++) {
    try {
      session ??= await connect()
      await session.call(DEREGISTER, [worker], deadline)
      break
    } catch (error) {
      tell({ trouble: /** @type {Error} */ (error).message })
      await close()
    }
  }
}

async function close () {
  const closing = session
  session = undefined
  await closing?.close()
}

parentPort?.on('message', () => {
  finishing = true
  alarm.abort()
  setTimeout(() => process.exit(), limit).unref()
})

run()
  .catch(refuse)
  .then(close)
  .finally(() => {
    Atomics.store(cells, cell.answered, 0n)
    Atomics.store(cells, cell.ended, 1n)
    Atomics.notify(cells, cell.ended)
    parentPort?.close()
  })
