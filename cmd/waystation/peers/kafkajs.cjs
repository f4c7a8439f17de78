// Reads the topics that match a regular expression from the beginning, only what
// was committed, and writes each record as a line of JSON. Ends when nothing has
// come for a while: a short one when it has as many as wanted, else a long one.
// Arguments: addresses, expression, records wanted.
'use strict'
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const fzstd = require('fzstd')

CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress() { throw new Error('this reader does not write') },
  async decompress(data) { return Buffer.from(fzstd.decompress(data)) },
})

const [addrs, expression, want] = process.argv.slice(2)
const kafka = new Kafka({ clientId: 'peers', brokers: addrs.split(','), logLevel: logLevel.ERROR })

async function main() {
  const admin = kafka.admin()
  await admin.connect()
  const wanted = new RegExp('^(' + expression + ')$')
  const topics = (await admin.listTopics()).filter((t) => wanted.test(t))
  await admin.disconnect()
  const consumer = kafka.consumer({ groupId: 'peers-kafkajs-' + process.pid, readUncommitted: false, maxWaitTimeInMs: 500 })
  await consumer.connect()
  await consumer.subscribe({ topics, fromBeginning: true })
  let last = Date.now()
  let count = 0
  await consumer.run({
    partitionsConsumedConcurrently: 1,
    eachBatchAutoResolve: true,
    eachBatch: async ({ batch }) => {
      let text = ''
      for (const m of batch.messages) {
        const headers = {}
        for (const [name, value] of Object.entries(m.headers || {})) headers[name] = String(value)
        text += JSON.stringify({ Partition: batch.partition, Offset: m.offset, Key: String(m.key ?? ''), Value: String(m.value ?? ''), Headers: headers }) + '\n'
      }
      count += batch.messages.length
      last = Date.now()
      if (!process.stdout.write(text)) await new Promise((done) => process.stdout.once('drain', done))
    },
  })
  while (Date.now() - last < (count < Number(want) ? 45000 : 2000)) await new Promise((done) => setTimeout(done, 200))
  await consumer.disconnect()
}

main().then(() => process.exit(0), (err) => { console.error(err); process.exit(1) })
