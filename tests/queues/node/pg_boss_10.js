// pg-boss 10, which has no notifications. Otherwise as pg_boss.js.
'use strict'

const { randomUUID } = require('node:crypto')
const PgBoss = require('pg-boss-10')
const { Heartbeat } = require('../../../clients/node')
const doJob = require('./runs')

const connectionString = 'postgresql:///'
const queue = 'jobs'

async function once (work) {
  const boss = new PgBoss({ connectionString })
  await boss.start()
  await work(boss)
  await boss.stop({ graceful: false })
}

async function install (boss) {
  await boss.createQueue('dead-letters')
  await boss.createQueue(queue, { deadLetter: 'dead-letters', retryLimit: 2 })
}

async function work () {
  const name = randomUUID()
  const heartbeat = new Heartbeat({ workerId: 'pg_boss:' + name, register: false, interval: 500 })
  await heartbeat.start()
  const boss = new PgBoss({ connectionString, application_name: name })
  await boss.start()
  await boss.work(queue, { pollingIntervalSeconds: 0.5 }, async ([job]) => await doJob(job.data.job))
}

const commands = {
  install: () => once(install),
  enqueue: (job, options) => once(boss => boss.send(queue, { job }, JSON.parse(options))),
  work
}
const [command, ...values] = process.argv.slice(2)
commands[command](...values)
