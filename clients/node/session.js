// A connection to one server, on which every wait has an end.
//
// A server that is frozen takes for ever: its kernel still acknowledges what is sent, so no timeout of TCP fires.
// Statements are not named, so a pooler in transaction mode may stand between.
'use strict'

const { Client } = require('pg')

/** A call that got no good answer. */
class CallFailed extends Error {
  /**
   * @param {string} message
   * @param {string} [sqlstate] undefined when no server has said anything
   * @param {boolean} [late] a server was reached, or seemed to be, and did not answer in time
   */
  constructor (message, sqlstate, late = false) {
    super(message)
    this.name = 'CallFailed'
    this.sqlstate = sqlstate
    this.late = late
  }

  /** Whether another attempt cannot succeed before somebody mends the call, the grants or the database. */
  get final () {
    return this.sqlstate !== undefined && /^(22|42)/.test(this.sqlstate)
  }
}

/**
 * A configuration for each server of one, as libpq splits it: pg knows no lists.
 * @param {string | import('pg').ClientConfig} connection
 * @returns {import('pg').ClientConfig[]}
 */
function splitHosts (connection) {
  if (typeof connection === 'string') return splitHosts({ connectionString: connection })
  const { connectionString: url } = connection
  if (url) {
    const [, before, hosts, after] = /^(\w+:\/\/(?:[^@/?]*@)?)([^/?]*)(.*)$/.exec(url) ?? []
    if (hosts === undefined) throw new TypeError('a connection string begins with postgresql://')
    return hosts.split(',').map(host => ({ ...connection, connectionString: before + host + after }))
  }
  const given = connection.host ?? process.env.PGHOST ?? ''
  if (given === '') return [connection]
  const hosts = given.split(',')
  const ports = String(connection.port ?? process.env.PGPORT ?? 5432).split(',')
  if (ports.length !== 1 && ports.length !== hosts.length) {
    throw new TypeError('as many ports as hosts are needed, or one')
  }
  return hosts.map((host, i) => ({ ...connection, host, port: Number(ports[i % ports.length]) }))
}

class Session {
  /** @param {import('pg').ClientConfig} config @param {() => void} onGone called when the connection ends unasked */
  constructor (config, onGone) {
    // The system notices by these that a network is cut.
    const keepAlive = { keepAlive: true, keepAliveInitialDelayMillis: 5000 }
    this.client = new Client({ application_name: 'rgrid heartbeat', ...keepAlive, ...config })
    this.began = Date.now()
    /** @type {Error | undefined} */
    this.gone = undefined
    /** @param {Error} [error] */
    const note = error => {
      this.gone ??= error ?? new Error('the server has closed the connection')
      onGone()
    }
    this.client.on('error', note)
    this.client.on('end', () => note())
  }

  /** @param {number} ms */
  async connect (ms) {
    await this.inTime(this.client.connect(), ms)
  }

  /**
   * The first row of what a statement answers within so many milliseconds, as an array.
   * @param {string} text @param {(string | undefined)[]} values @param {number} ms @returns {Promise<any[]>}
   */
  async call (text, values, ms) {
    if (this.gone) throw asFailure(this.gone)
    const answer = await this.inTime(this.client.query({ text, values, rowMode: 'array' }), ms)
    return answer.rows[0]
  }

  /** @template T @param {Promise<T>} promise @param {number} ms @returns {Promise<T>} */
  async inTime (promise, ms) {
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    const end = new Promise((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(new CallFailed('the server has not answered in time', undefined, true))
        this.destroy()
      }, ms)
    })
    try {
      return await /** @type {Promise<T>} */ (Promise.race([promise, end]))
    } catch (error) {
      throw asFailure(error)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Says goodbye, if the server is there to hear it. */
  async close () {
    if (this.gone) return this.destroy()
    await this.inTime(this.client.end(), 1000).catch(() => {})
  }

  destroy () {
    // Not in pg's types: end() alone waits for a server that may never answer.
    const { connection } = /** @type {{ connection: { stream: import('node:net').Socket } }} */ (
      /** @type {unknown} */ (this.client))
    connection.stream.destroy()
  }
}

/** @param {any} error */
function asFailure (error) {
  if (error instanceof CallFailed) return error
  return new CallFailed(error.message || String(error.code), error.severity && error.code)
}

module.exports = { CallFailed, Session, splitHosts }
