// A Modbus slave over TCP. Arguments: the package that makes it (modbus-serial or
// jsmodbus), the port, and JSON with the values it holds, which JavaScript's DataView
// puts into registers. What is not named is 0; modbus-serial refuses what lies behind
// the last value (exception 2), jsmodbus answers it with less than was asked for.
'use strict'
const [library, port, cells] = process.argv.slice(2)

const SIZES = { int16: 2, uint16: 2, int32: 4, uint32: 4, float32: 4, int64: 8, uint64: 8, float64: 8 }
const SETTERS = { int16: 'setInt16', uint16: 'setUint16', int32: 'setInt32', uint32: 'setUint32', float32: 'setFloat32',
  int64: 'setBigInt64', uint64: 'setBigUint64', float64: 'setFloat64' }

// registers returns the bytes of a value as they stand in registers, big-endian each.
function registers(cell) {
  const view = new DataView(new ArrayBuffer(SIZES[cell.type]))
  const value = cell.type.endsWith('64') && cell.type !== 'float64' ? BigInt(cell.value) : Number(cell.value)
  const order = cell.order || 'ABCD'
  // DCBA is what a little-endian machine has in its memory.
  view[SETTERS[cell.type]](0, value, order === 'DCBA' || order === 'CDAB')
  const bytes = Buffer.from(view.buffer)
  return order === 'CDAB' || order === 'BADC' ? bytes.swap16() : bytes
}

const tables = { coil: [], discrete: [], holding: [], input: [] } // of bits, and of bytes
for (const cell of JSON.parse(cells)) {
  if (cell.type === 'bool') tables[cell.table][cell.address] = cell.value === 'true'
  else for (const [i, b] of registers(cell).entries()) tables[cell.table][2 * cell.address + i] = b
}
const bytes = { holding: Buffer.from(Array.from(tables.holding, (b) => b || 0)), input: Buffer.from(Array.from(tables.input, (b) => b || 0)) }

function word(table, at) {
  if (2 * at + 2 > bytes[table].length) throw Object.assign(new Error('no such register'), { modbusErrorCode: 2 })
  return bytes[table].readUInt16BE(2 * at)
}

function bit(table, at) {
  if (at >= tables[table].length) throw Object.assign(new Error('no such bit'), { modbusErrorCode: 2 })
  return Boolean(tables[table][at])
}

function packed(bits) {
  const out = Buffer.alloc(Math.ceil(bits.length / 8))
  bits.forEach((b, i) => { if (b) out[i >> 3] |= 1 << (i & 7) })
  return out
}

if (library === 'modbus-serial') {
  const { ServerTCP } = require('modbus-serial')
  const slave = new ServerTCP({
    getCoil: (at) => bit('coil', at),
    getDiscreteInput: (at) => bit('discrete', at),
    getHoldingRegister: (at) => word('holding', at),
    getInputRegister: (at) => word('input', at),
    readDeviceIdentification: () => ({ 0: 'node', 1: 'modbus-serial', 2: '8.0.25' }),
  }, { host: '127.0.0.1', port: Number(port), unitID: 1 })
  slave.on('socketError', () => {}) // a master that went away
  slave.on('serverError', (err) => { console.error(err); process.exit(1) })
} else {
  const net = require('net')
  const { server } = require('jsmodbus')
  const listener = new net.Server()
  listener.on('connection', (socket) => socket.on('error', () => {}))
  new server.TCP(listener, { coils: packed(tables.coil), discrete: packed(tables.discrete), holding: bytes.holding, input: bytes.input })
  listener.listen(Number(port), '127.0.0.1')
}
