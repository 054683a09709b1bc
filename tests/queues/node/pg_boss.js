// pg-boss.
'use strict'

const { randomUUID } = require('node:crypto')
const { PgBoss } = require('pg-boss')
const { Heartbeat } = require('../../../clients/node')
const doJob = require('./runs')

const connectionString = 'postgresql:///'
const queue = 'jobs'

async function once (work) {
  const boss = new PgBoss({ connectionString })
  await boss.start()
  await work(boss)
  await boss.stop()
}

async function install (boss) {
  await boss.createQueue('dead-letters')
  await boss.createQueue(queue, { deadLetter: 'dead-letters', notify: true })
}

async function work () {
  // As often as the tests' threshold wants it; a minute of threshold needs no interval.
  const interval = 500

  const name = randomUUID()
  const heartbeat = new Heartbeat({ workerId: 'pg_boss:' + name, register: false, deregister: true, interval })
  await heartbeat.start()
  const boss = new PgBoss({ connectionString, application_name: name, useListenNotify: true })
  boss.on('stopped', () => heartbeat.stop())
  await boss.start()
  await boss.work(queue, { pollingIntervalSeconds: 60 }, async ([job]) => await doJob(job.data.job))
}

const commands = {
  install: () => once(install),
  enqueue: (job, options) => once(boss => boss.send(queue, { job }, JSON.parse(options))),
  work
}
const [command, ...values] = process.argv.slice(2)
commands[command](...values)
