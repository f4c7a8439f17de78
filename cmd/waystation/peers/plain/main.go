// Command plain forwards MQTT to Kafka with paho and sarama used as their
// documentation shows, without a durable queue: what the benchmarks compare
// the gateway with. It is no product: a crash loses what it has in memory.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	paho "github.com/eclipse/paho.mqtt.golang"
)

func main() {
	mqtt := flag.String("mqtt", "", "address of the MQTT broker")
	kafka := flag.String("kafka", "", "address of Kafka; empty: acknowledge and discard")
	topic := flag.String("topic", "test.plant", "Kafka topic")
	flag.Parse()
	if err := forward(*mqtt, *kafka, *topic); err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		os.Exit(1)
	}
}

// forward runs until SIGTERM.
func forward(mqtt, kafka, topic string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var producer sarama.SyncProducer
	if kafka != "" {
		var err error
		if producer, err = newProducer(kafka); err != nil {
			return err
		}
		defer func() { _ = producer.Close() }()
	}
	inbox := make(chan paho.Message, 20_000)
	o := paho.NewClientOptions().AddBroker("tcp://" + mqtt).SetClientID("plain").SetCleanSession(false).
		SetAutoAckDisabled(true).SetOrderMatters(true).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { inbox <- m })
	c := paho.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	defer c.Disconnect(250)
	if t := c.Subscribe("#", 1, nil); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	fmt.Println("ready")
	return pump(ctx, inbox, producer, topic)
}

func newProducer(addr string) (sarama.SyncProducer, error) {
	conf := sarama.NewConfig()
	conf.Producer.Idempotent = true
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true
	conf.Producer.Compression = sarama.CompressionZSTD
	conf.Net.MaxOpenRequests = 1
	return sarama.NewSyncProducer([]string{addr}, conf)
}

// pump sends what waits, up to 1,000 messages, and acknowledges it.
func pump(ctx context.Context, inbox <-chan paho.Message, producer sarama.SyncProducer, topic string) error {
	for {
		var batch []paho.Message
		select {
		case m := <-inbox:
			batch = append(batch, m)
		case <-ctx.Done():
			return nil
		}
		for linger := time.After(20 * time.Millisecond); len(batch) < 1000; {
			select {
			case m := <-inbox:
				batch = append(batch, m)
				continue
			case <-linger:
			}
			break
		}
		if producer != nil {
			msgs := make([]*sarama.ProducerMessage, len(batch))
			for i, m := range batch {
				msgs[i] = &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(m.Topic()), Value: sarama.ByteEncoder(m.Payload()),
					Headers: headers(i)}
			}
			if err := producer.SendMessages(msgs); err != nil {
				return err
			}
		}
		for _, m := range batch {
			m.Ack()
		}
	}
}

// headers are as many as the gateway sends.
func headers(i int) []sarama.RecordHeader {
	return []sarama.RecordHeader{
		{Key: []byte("gateway"), Value: []byte("test-gateway")},
		{Key: []byte("generation"), Value: []byte("0123456789abcdef")},
		{Key: []byte("lane"), Value: []byte("telemetry")},
		{Key: []byte("seq"), Value: fmt.Append(nil, i)},
		{Key: []byte("source"), Value: []byte("plant")},
	}
}
