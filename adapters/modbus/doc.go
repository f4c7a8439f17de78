// Package modbus reads Modbus devices: over TCP, TLS and UDP, over a serial
// line in RTU or ASCII, and RTU or ASCII carried by TCP or UDP.
//
// A source is one line: a TCP connection or a serial port with one unit or many
// behind it. One goroutine owns the line (bus.go) and takes the polls in the
// order of their deadlines; a unit that does not answer is left alone for
// longer and longer and never takes more than a tenth of the time.
//
// What is read is said by profiles (profile.go): registers with their types,
// in groups. A group is polled as a whole, in as few requests as the device
// allows (plan.go), and makes one record.
//
// A value is only ever the answer to its own request: lines check unit,
// function, length and, where there is one, the transaction identifier, and
// drop what is late or foreign. See docs/modbus.md for users.
package modbus
