// Absurd.
'use strict'

const { execFileSync } = require('node:child_process')
const { randomUUID } = require('node:crypto')
const path = require('node:path')
const { Absurd } = require('absurd-sdk')
const { Pool } = require('pg')
const { Heartbeat } = require('../../../clients/node')
const doJob = require('./runs')

const queueName = 'jobs'

async function once (work) {
  const absurd = new Absurd({ db: new Pool(), queueName })
  absurd.registerTask({ name: 'task' }, () => {})
  await work(absurd)
  process.exit(0)
}

async function install (absurd) {
  execFileSync(path.join(__dirname, '../../../target/queues/bin/absurdctl'), ['init'])
  await absurd.createQueue()
}

async function work () {
  // As often as the tests' threshold wants it; a minute of threshold needs no interval.
  const interval = 500

  const absurd = new Absurd({ db: new Pool(), queueName })
  absurd.registerTask({ name: 'task' }, async ({ job }) => await doJob(job))
  const workerId = randomUUID()
  const heartbeat = new Heartbeat({ workerId: 'absurd:' + workerId, register: false, interval })
  await heartbeat.start()
  await absurd.startWorker({ workerId, concurrency: 1, claimTimeout: 3600 })
}

const commands = {
  install: () => once(install),
  enqueue: (job, options) => once(absurd => absurd.spawn('task', { job }, JSON.parse(options))),
  work
}
const [command, ...values] = process.argv.slice(2)
commands[command](...values)
