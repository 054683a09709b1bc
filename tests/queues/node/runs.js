// What a job of the tests does; see yard.sql.
'use strict'

const { setTimeout: sleep } = require('node:timers/promises')
const { Client } = require('pg')

module.exports = async function run (job) {
  const client = new Client()
  await client.connect()
  const ask = async (call, argument) => (await client.query(`SELECT ${call}($1) AS answer`, [argument])).rows[0].answer
  const number = await ask('begin_run', job)
  while (!await ask('run_may_end', number)) await sleep(50)
  await ask('end_run', number)
  await client.end()
}
