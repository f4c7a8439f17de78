// Package mqtttest has brokers for tests of MQTT clients.
//
// Broker is a real one (mochi-mqtt) on loopback whose connections are watched
// on the wire: every PUBLISH that goes out and every acknowledgement that
// comes in is kept in order, and shown to functions at the moment it passes.
// Its connections can be cut, swallowed, and its sessions forgotten.
//
// Raw is none: the test writes every byte itself.
package mqtttest
