# A Modbus slave made with pymodbus. Its argument is JSON: the line (tcp, tls, udp,
# rtu, ascii, rtu+tcp, ascii+tcp, rtu+udp), where it listens, and the values it holds,
# which are put into registers by pymodbus' own converter and Python's struct.
# It writes the file "ready" when it listens.
import asyncio
import json
import ssl
import struct
import sys

from pymodbus import FramerType, ModbusDeviceIdentification
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.server import ModbusSerialServer, ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

TABLES = ("coil", "discrete", "holding", "input")
ITS_OWN = ModbusClientMixin.DATATYPE


def registers(cell):
    """The registers of one value, big-endian each."""
    kind, order, text = cell["type"], cell["order"] or "ABCD", cell["value"]
    if kind == "float16":
        out = list(struct.unpack(">H", struct.pack(">e", float(text))))
    elif kind.startswith("bcd"):
        digits = text.rjust(int(kind[3:]) // 4, "0")
        out = [int(digits[i:i + 4], 16) for i in range(0, len(digits), 4)]
    elif kind == "string":
        out = ModbusClientMixin.convert_to_registers(text, ITS_OWN.STRING)
    else:
        value = float(text) if kind.startswith("float") else int(text, 0)
        words = "little" if order in ("CDAB", "DCBA") else "big"
        out = ModbusClientMixin.convert_to_registers(value, ITS_OWN[kind.upper()], word_order=words)
    if kind.startswith("bcd") and order in ("CDAB", "DCBA"):
        out.reverse()
    if order in ("BADC", "DCBA"):
        out = [(r & 0xFF) << 8 | r >> 8 for r in out]
    return out


def device(unit, cells):
    """One unit with the cells of its four tables; what is not named is refused."""
    tables = {name: [] for name in TABLES}
    reads = set()
    for cell in cells:
        at, table = cell["address"], cell["table"]
        if cell["type"] == "bool":
            tables[table].append(SimData(at, values=[cell["value"] == "true"], datatype=DataType.BITS))
        elif cell["type"] == "reads":
            reads.add(at)
            tables[table].append(SimData(at, values=[int(cell["value"])], datatype=DataType.REGISTERS))
        else:
            tables[table].append(SimData(at, values=registers(cell), datatype=DataType.REGISTERS))
    for name in TABLES[:2]:
        tables[name] = tables[name] or [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    for name in TABLES[2:]:
        tables[name] = tables[name] or [SimData(65535, values=[0], datatype=DataType.REGISTERS)]

    async def count(function, start, address, length, held, written):
        if function == 3 and written is None:
            for at in reads.intersection(range(address, address + length)):
                held[at - start] = (held[at - start] + 1) & 0xFFFF

    return SimDevice(unit, simdata=tuple(tables[name] for name in TABLES), action=count)


def server(how):
    cells = {}
    for cell in how["cells"]:
        cells.setdefault(cell["unit"] or 1, []).append(cell)
    units = [device(unit, its) for unit, its in sorted(cells.items())]
    options = {"identity": ModbusDeviceIdentification(info_name={
        "VendorName": "pymodbus", "ProductCode": "PM", "MajorMinorRevision": "3.16.1"})}
    framing, _, carrier = how["line"].rpartition("+")
    if how["line"] in ("rtu", "ascii"):
        return ModbusSerialServer(units, framer=FramerType(how["line"]), port=how["port"],
                                  baudrate=how["baud"], parity=how["parity"], **options)
    options["address"] = ("127.0.0.1", int(how["port"]))
    if how["line"] == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(how["cert"], how["key"])
        context.load_verify_locations(how["ca"])
        context.verify_mode = ssl.CERT_REQUIRED
        return ModbusTlsServer(units, sslctx=context, **options)
    if framing:
        options["framer"] = FramerType(framing)
    return {"tcp": ModbusTcpServer, "udp": ModbusUdpServer}[carrier](units, **options)


async def main():
    how = json.loads(sys.argv[1])
    slave = server(how)
    await slave.serve_forever(background=True)
    with open(how["ready"], "w", encoding="ascii") as ready:
        ready.write("listens\n")
    await asyncio.Event().wait()


asyncio.run(main())
