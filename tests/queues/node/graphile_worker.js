// Graphile Worker.
'use strict'

const { makeWorkerUtils, run } = require('graphile-worker')
const { Heartbeat } = require('../../../clients/node')
const doJob = require('./runs')

const connectionString = 'postgresql:///'

async function utils (work) {
  const utils = await makeWorkerUtils({ connectionString })
  await work(utils)
  await utils.release()
}

async function work () {
  const taskList = { task: ({ job }) => doJob(job) }
  const options = { connectionString, concurrency: 1, pollInterval: 60_000, taskList }
  // As often as the tests' threshold wants it; a minute of threshold needs no interval.
  const interval = 500

  const heartbeats = {}
  const startWorker = (_, { worker }) => {
    const workerId = 'graphile_worker:' + worker.workerPool.id
    heartbeats[workerId] ??= new Heartbeat({ workerId, register: false, deregister: true, interval }).start()
    return heartbeats[workerId]
  }
  const plugin = { name: 'HeartbeatPlugin', worker: { hooks: { startWorker } } }
  const runner = await run({ ...options, preset: { plugins: [plugin] } })
  await runner.promise
  for (const heartbeat of Object.values(heartbeats)) await (await heartbeat).stop()
}

const commands = {
  install: () => utils(utils => utils.migrate()),
  enqueue: (job, options) => utils(utils => utils.addJob('task', { job }, JSON.parse(options))),
  work
}
const [command, ...values] = process.argv.slice(2)
commands[command](...values)
