// Package gatewaytest is the conformance suite that every source adapter runs.
//
// An adapter's test supplies a Harness: how to start a simulated device on
// loopback together with a source that reads it, how to make the device
// produce the observation with number n, and how to find that number in a
// record. Conform does the rest, once per promise, each time with a fresh
// device:
//
//	func TestConform(t *testing.T) {
//		gatewaytest.Conform(t, gatewaytest.Harness{
//			Acks:     true,
//			InFlight: 64,
//			Number:   func(r *gateway.Record) (int, bool) { n, err := strconv.Atoi(string(r.Payload)); return n, err == nil },
//			Start: func(tb testing.TB, w *gatewaytest.Witness) *gatewaytest.Device {
//				b := mqtttest.Broker(tb)     // in process; its hooks see every packet
//				b.OnPuback = w.Acked         // number of the message that was acknowledged
//				b.OnSend = w.Sent            // number of the message put on the line
//				return &gatewaytest.Device{
//					Source:  newSource(tb, b.URL()), // InFlight 64, fixed client id, short timeouts
//					Publish: func(n int) { b.Publish("t", strconv.Itoa(n)) },
//					Cut:     b.Cut, Restore: b.Restore, Stop: b.Close, Conns: b.Clients,
//				}
//			},
//		})
//	}
//
// What is checked:
//
//   - records arrive in the order the device sent them, and once while the line holds;
//   - nothing is acknowledged before the queue has answered done(nil), and what
//     is acknowledged is acknowledged in order of arrival, all of it in the end;
//   - the line is cut ten times, also with deliveries unanswered: Run says so
//     each time by returning an error, and the records go on;
//   - a queue that refuses records loses nothing that was acknowledged, and
//     what the device keeps arrives once the queue takes records again;
//   - a queue that does not answer is met with no more than InFlight records,
//     and the source can still be stopped;
//   - Run returns within two seconds of the end of its context, while records
//     flow, with the device out of reach, with the queue stuck, and at once
//     when the context has ended before;
//   - no goroutine and, where Device.Conns can tell, no connection is left then;
//   - records go on under clocks of 1970 and 2038 and a step back, and are
//     stamped by the gateway's clock.
//
// Between two calls of Run the suite waits until the queue has answered what
// the first one delivered, as the supervisor of the gateway does.
//
// The suite uses real time and looks at all goroutines of the process: do not
// run it in parallel with other tests, and let the source of the harness have
// short timeouts, so that it notices a cut within Patience.
package gatewaytest
