//go:build interop

package peers

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func startMosquitto(t *testing.T, opts ...MosquittoOption) (*Mosquitto, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := StartMosquitto(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Kill() })
	return m, dir
}

// connect opens a session with the client id "boat" that outlives the connection.
func connect(t *testing.T, m *Mosquitto, handler mqtt.MessageHandler) mqtt.Client {
	t.Helper()
	options := mqtt.NewClientOptions().AddBroker("tcp://" + m.Addr).SetClientID("boat").
		SetCleanSession(false).SetAutoReconnect(false).SetDefaultPublishHandler(handler)
	client := mqtt.NewClient(options)
	await(t, client.Connect())
	return client
}

func await(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(30 * time.Second) {
		t.Fatal("no answer from mosquitto after 30 s")
	}
	must(t, token.Error())
}

func TestMosquittoKeepsTheQueueOfAnAbsentClient(t *testing.T) {
	const count = 1500 // more than mosquitto's own limit of 1000
	m, dir := startMosquitto(t)
	subscriber := connect(t, m, nil)
	await(t, subscriber.Subscribe("wind/#", 1, nil))
	subscriber.Disconnect(250)

	publisher := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + m.Addr).SetClientID("vane"))
	await(t, publisher.Connect())
	for i := range count {
		await(t, publisher.Publish("wind/speed", 1, false, fmt.Sprintf("%d\n\x00", i)))
	}
	publisher.Disconnect(250)

	must(t, m.Restart())
	must(t, m.Stop())
	again, err := StartMosquitto(dir)
	must(t, err)
	t.Cleanup(func() { _ = again.Kill() })
	if again.Addr != m.Addr {
		t.Fatalf("the same folder came up on %s, before on %s", again.Addr, m.Addr)
	}

	arrived := make(chan string, count)
	subscriber = connect(t, again, func(_ mqtt.Client, msg mqtt.Message) { arrived <- string(msg.Payload()) })
	defer subscriber.Disconnect(250)
	limit := time.After(30 * time.Second)
	for i := range count {
		select {
		case got := <-arrived:
			if want := fmt.Sprintf("%d\n\x00", i); got != want {
				t.Fatalf("message %d: %q, want %q", i, got, want)
			}
		case <-limit:
			t.Fatalf("got %d messages, want %d", i, count)
		}
	}
}

func TestMosquittoPauseAndResume(t *testing.T) {
	m, _ := startMosquitto(t)
	must(t, m.Pause())
	if err := answersMQTT(t.Context(), m.Addr); err == nil || !strings.Contains(err.Error(), "CONNACK") {
		t.Errorf("paused: %v, want a connection without CONNACK", err)
	}
	must(t, m.Resume())
	must(t, answersMQTT(t.Context(), m.Addr))
	must(t, m.Kill())
	if err := answersMQTT(t.Context(), m.Addr); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("killed: %v, want connection refused", err)
	}
	must(t, m.Start())
}

func TestMosquittoPasswordFile(t *testing.T) {
	passwd, err := program("mosquitto_passwd")
	must(t, err)
	file := t.TempDir() + "/users"
	if out, err := exec.Command(passwd, "-b", "-c", file, "mate", "secret").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	m, _ := startMosquitto(t, PasswordFile(file), MaxInflight(1))
	for password, want := range map[string]bool{"secret": true, "wrong": false} {
		client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + m.Addr).SetUsername("mate").SetPassword(password))
		token := client.Connect()
		if !token.WaitTimeout(30 * time.Second) {
			t.Fatal("no answer after 30 s")
		}
		if got := token.Error() == nil; got != want {
			t.Errorf("password %q: %v", password, token.Error())
		}
		client.Disconnect(0)
	}
}
