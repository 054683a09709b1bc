// The heartbeat of a worker, for the PostgreSQL extension rgrid_heartbeat.
//
//     const heartbeat = await new Heartbeat({ connection: 'postgresql://db1,db2/rgrid' }).start()
//     for (;;) if (heartbeat.mayClaim) await claimAndWork(heartbeat.workerId)
//
// It registers the worker, beats from a thread with a connection of its own, which no job that blocks the event loop
// can stop, and deregisters it.
'use strict'

const { EventEmitter } = require('node:events')
const os = require('node:os')
const path = require('node:path')
const { Worker } = require('node:worker_threads')
const { CallFailed, splitHosts } = require('./session.js')

/**
 * All times are in milliseconds.
 * @typedef {object} Options
 * @property {string | import('pg').ClientConfig} [connection] a URL, which may name several servers, or what pg takes,
 *   where `host` may be a list; the one that can be written to is used. By default the PG* environment variables.
 *   Functions cannot be passed on to the thread, such as one for the password.
 * @property {string} [workerId] without one the database makes one up
 * @property {string} [hostname] for operators
 * @property {boolean} [register] false, if the id is that of a queue's library, which may have claimed jobs under it
 *   already: to register would give these jobs back
 * @property {boolean} [deregister] whether stop() deregisters the worker. By default who has registered it does. Who
 *   has not may be told to, if the library has stopped by then: what still runs under the id is settled
 * @property {boolean} [attach] whether to tie the worker to the connection, so that its death is seen at once. Where
 *   the server cannot do that, and behind a pooler, silence is what counts
 * @property {boolean} [atExit] whether the end of the process stops the heartbeat, too, and waits for that as stop()
 *   does. SIGTERM then ends the process, unless the program handles it itself
 * @property {number} [interval] between heartbeats; a third of rgrid_heartbeat.stale_threshold at most. 30 s
 * @property {number} [deadline] for a call and for connecting; longer than rgrid_heartbeat.call_timeout. 10 s
 */

/** What the thread writes and this one reads, even while it does not take messages. */
const cell = { answered: 0, incarnation: 1, heardMonotonic: 2, heardWall: 3, ended: 4 }

/**
 * Of one worker, from start() to stop().
 *
 * Emits `givenUp` with the new incarnation when the worker had been declared dead, and so its jobs were settled;
 * `trouble` with a text when a call has failed, which is tried again.
 */
class Heartbeat extends EventEmitter {
  /** @param {Options} [options] */
  constructor (options = {}) {
    super()
    const { connection = {}, workerId, hostname = os.hostname() } = options
    const { register = true, deregister = register, attach = true, atExit = false } = options
    const { interval = 30_000, deadline = 10_000 } = options
    if (!register && workerId === undefined) {
      throw new TypeError('a heartbeat that does not register needs a workerId')
    }
    const hosts = splitHosts(connection)
    /** How long stop() waits. */
    const limit = 2 * deadline * hosts.length
    /** @private */
    this._options = { hosts, workerId, hostname, register, deregister, attach, atExit, interval, deadline, limit }
    /** Known when start() has resolved. @type {string | undefined} */
    this.workerId = workerId
    /** Why the last call failed; undefined if it was answered. @type {string | undefined} */
    this.trouble = 'not started'
    /** @private */
    this._cells = new BigInt64Array(new SharedArrayBuffer(8 * Object.keys(cell).length))
    /** The incarnation that the program has been told of. @private */
    this._told = 0
    /** @private */
    this._finishing = false
    /** @private @type {Worker | undefined} */
    this._thread = undefined
    /** @private */
    this._onExit = () => this._stopAtExit()
  }

  /**
   * Another number than before means that the worker had been declared dead: jobs that were claimed until then are not
   * its own any more. 0 before start() has resolved.
   */
  get incarnation () {
    return Number(Atomics.load(this._cells, cell.incarnation))
  }

  /**
   * Whether a job may be claimed now: the database has answered since the last trouble, and not long ago. A job that is
   * claimed by a worker that was declared dead, and does not know, is lost with its next heartbeat.
   */
  get mayClaim () {
    const limit = this._options.interval + this._options.deadline
    // The monotonic clock stands still while the machine is suspended, and the other one may be stepped.
    const silence = Number(process.hrtime.bigint() - Atomics.load(this._cells, cell.heardMonotonic)) / 1e6
    const onTheWall = Date.now() - Number(Atomics.load(this._cells, cell.heardWall))
    const fresh = silence <= limit && onTheWall <= limit
    const answered = Atomics.load(this._cells, cell.answered) === 1n
    return answered && fresh && this._told === this.incarnation && !this._finishing
  }

  /**
   * Resolves when the database has heard of the worker; rejects with CallFailed if it refuses.
   * @returns {Promise<this>}
   */
  async start () {
    if (this._thread !== undefined) throw new Error('a heartbeat starts once')
    const workerData = { cells: this._cells, cell, options: this._options }
    const thread = this._thread = new Worker(path.join(__dirname, 'thread.js'), { workerData })
    if (this._options.atExit) {
      process.on('exit', this._onExit)
      process.on('SIGTERM', exitOnSignal)
    }
    thread.on('exit', () => this._noteEnd())
    return await new Promise((resolve, reject) => {
      thread.on('message', message => {
        if (message.refused) reject(new CallFailed(message.refused.message, message.refused.sqlstate))
        this._note(message)
        if (message.worker === undefined) return
        // From now on the program's other work decides how long the process lives.
        if (!this._finishing) thread.unref()
        resolve(this)
      })
      thread.on('error', error => {
        this._note({ trouble: error.message })
        reject(error)
      })
      thread.on('exit', () => reject(new CallFailed('the heartbeat was stopped before it began')))
    })
  }

  /** @private @param {any} message */
  _note (message) {
    const trouble = message.refused?.message ?? message.trouble
    if (trouble !== undefined && trouble !== this.trouble) this.emit('trouble', trouble)
    this.trouble = trouble
    if (message.worker === undefined) return
    this.workerId = message.worker
    if (message.givenUp) this.emit('givenUp', message.incarnation)
    this._told = message.incarnation
  }

  /** However it has come about. @private */
  _noteEnd () {
    Atomics.store(this._cells, cell.answered, 0n)
    Atomics.store(this._cells, cell.ended, 1n)
    if (!this._options.atExit) return
    process.off('exit', this._onExit)
    process.off('SIGTERM', exitOnSignal)
  }

  /**
   * Stops beating, and deregisters if that is to be done. Comes after the last job. Waits for two deadlines for each
   * server at most.
   */
  async stop () {
    const thread = this._thread
    if (thread === undefined || Atomics.load(this._cells, cell.ended) === 1n) return
    this._finishing = true
    thread.ref()
    const ended = new Promise(resolve => thread.once('exit', resolve))
    thread.postMessage('finish')
    await ended
  }

  /** Nothing of the program runs any more, and the thread still does. @private */
  _stopAtExit () {
    this._finishing = true
    this._thread?.postMessage('finish')
    Atomics.wait(this._cells, cell.ended, 0n, this._options.limit)
  }
}

/** A handler of the program's own goes first. */
function exitOnSignal () {
  if (process.listeners('SIGTERM').some(listener => listener !== exitOnSignal)) return
  process.exit(128 + os.constants.signals.SIGTERM)
}

module.exports = { CallFailed, Heartbeat }
