// Package mqtt reads an MQTT 3.1.1 broker: a source for package gateway. It also
// publishes to one: a sink (sink.go, uplink.go), which keeps over connections
// what of a batch the broker has confirmed.
//
// # How a message travels
//
//	TCP ─► paced ─► (TLS) ─► bufio ─► conn.Read ─┬─ PUBLISH ─► records ─► Intake.Deliver
//	                                             └─ everything else ─► paho (connect, subscribe, keep-alive)
//	TCP ◄─ PUBACK, in order of arrival, one write per commit ◄─ done(nil), after the sync
//
// paho.mqtt.golang is the control plane. Its own receive path costs about 40 µs
// and 33 allocations per message and acknowledges through five channels, so
// PUBLISH packets are taken out of the byte stream below it: conn is the
// net.Conn that paho reads. paho trusts the broker with lengths and counts, so
// every other packet is checked before it is passed on.
//
// # What holds
//
//   - PUBACK is written only after the record is in a synced commit, in the
//     order of arrival [MQTT-4.6.0-2], on the connection the message came from.
//     For a message at QoS 2, which the broker may still send from a session
//     that was once subscribed so, the same holds of PUBREC; paho answers PUBREL.
//   - Nothing blocks the reader for longer than half of Config.Timeout:
//     unacknowledged messages are bounded by count and bytes, above which the
//     connection is given up and the broker keeps the rest.
//   - MQTT 3.1.1 has no negative acknowledgement: when the queue refuses, the
//     connection is dropped and the broker sends again.
//   - A payload that cannot be decoded, or is too large, becomes a record of bad
//     quality and is acknowledged once that is stored. So does one on which the
//     codec panics: no message is sent again for ever.
//   - A source that is stopped takes nothing more, waits a moment for what it
//     has delivered to be stored, acknowledges it and says goodbye.
package mqtt
