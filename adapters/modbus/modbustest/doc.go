// Package modbustest is a plant of Modbus units on loopback: over TCP, TLS and
// UDP, over a pseudo terminal that keeps the time of a serial line, and RTU or
// ASCII carried by TCP or UDP. Its units answer by the standard and, by
// script, do everything that real ones do wrong.
//
// It frames, checks and counts with code of its own, so that what it says of a
// master is an independent judgement. References are to the MODBUS Application
// Protocol V1.1b3 ("protocol"), MODBUS over Serial Line V1.02 ("serial line")
// and MODBUS Messaging on TCP/IP V1.0b ("messaging").
package modbustest
