//go:build interop

package peers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

const childVar = "WAYSTATION_PEERS_CHILD"

// TestMain runs the tests, or, as the child of TestPeersDieWithTheTest, starts
// peers in the folder that the variable names and waits to be killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(childVar)
	if dir == "" {
		os.Exit(m.Run())
	}
	kafkaDir, mosquittoDir := dir+"/kafka", dir+"/mosquitto"
	if err := errors.Join(os.Mkdir(kafkaDir, 0o755), os.Mkdir(mosquittoDir, 0o755)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	kafka, err := StartKafka(kafkaDir)
	mosquitto, err2 := StartMosquitto(mosquittoDir)
	if err := errors.Join(err, err2); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("pids", kafka.Pid(), mosquitto.Pid())
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // the parent never writes
	os.Exit(1)
}

func startKafka(t *testing.T, opts ...KafkaOption) (*Kafka, string) {
	t.Helper()
	dir := t.TempDir()
	began := time.Now()
	k, err := StartKafka(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Kafka answers after %s", time.Since(began).Round(10*time.Millisecond))
	t.Cleanup(func() { _ = k.Kill() }) // may have ended
	return k, dir
}

func producerConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Net.MaxOpenRequests = 1
	config.Metadata.AllowAutoTopicCreation = true
	return config
}

// record i has a key, headers and a value that are hard to carry through text.
func record(topic string, i int) *sarama.ProducerMessage {
	random := rand.New(rand.NewPCG(1, uint64(i)))
	value := make([]byte, random.IntN(300))
	for j := range value {
		value[j] = byte(random.Uint32())
	}
	value = append(value, "\nline\r\n\x00|,=\xff\x00"...)
	return &sarama.ProducerMessage{
		Topic: topic,
		Key:   sarama.StringEncoder(fmt.Sprintf("key|%d\n\x00 %s", i, strings.Repeat("k", i%7))),
		Value: sarama.ByteEncoder(value),
		Headers: []sarama.RecordHeader{
			{Key: []byte("n"), Value: []byte(strconv.Itoa(i))},
			{Key: []byte("unit"), Value: []byte("°C|=\t")},
			{Key: []byte("empty"), Value: []byte{}},
			{Key: []byte("null")},
		},
	}
}

// produce sends n records and returns what a consumer must find, by key.
func produce(t *testing.T, k *Kafka, topic string, n int) map[string]Message {
	t.Helper()
	producer, err := sarama.NewSyncProducer([]string{k.Addr}, producerConfig())
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]Message{}
	for i := range n {
		m := record(topic, i)
		partition, offset, err := producer.SendMessage(m)
		if err != nil {
			t.Fatalf("send record %d: %v", i, err)
		}
		want := Message{Partition: int(partition), Offset: offset, Headers: map[string]string{}}
		want.Key = string(m.Key.(sarama.StringEncoder))
		want.Value = m.Value.(sarama.ByteEncoder)
		for _, h := range m.Headers {
			want.Headers[string(h.Key)] = string(h.Value)
		}
		want.Headers["null"] = "NULL" // as kcat writes it
		sent[want.Key] = want
	}
	if err := producer.Close(); err != nil {
		t.Fatal(err)
	}
	return sent
}

func kcat(t *testing.T, addr, topic string, extra ...string) []Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := Kcat(ctx, addr, topic, extra...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// compare reads the topic and wants each record of sent once, byte for byte.
func compare(t *testing.T, addr, topic string, sent map[string]Message) {
	t.Helper()
	got := kcat(t, addr, topic)
	if len(got) != len(sent) {
		t.Errorf("kcat read %d records, want %d", len(got), len(sent))
	}
	seen := map[string]bool{}
	for _, m := range got {
		want, ok := sent[m.Key]
		switch {
		case !ok:
			t.Fatalf("kcat read key %q, which was not sent", m.Key)
		case seen[m.Key]:
			t.Fatalf("kcat read key %q twice", m.Key)
		case m.Partition != want.Partition || m.Offset != want.Offset:
			t.Fatalf("key %q: at %d/%d, want %d/%d", m.Key, m.Partition, m.Offset, want.Partition, want.Offset)
		case !bytes.Equal(m.Value, want.Value):
			t.Fatalf("key %q: value %q, want %q", m.Key, m.Value, want.Value)
		case !maps.Equal(m.Headers, want.Headers):
			t.Fatalf("key %q: headers %q, want %q", m.Key, m.Headers, want.Headers)
		case time.Since(time.UnixMilli(m.Time)).Abs() > time.Hour:
			t.Fatalf("key %q: time %d", m.Key, m.Time)
		}
		seen[m.Key] = true
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKafkaKeepsRecords(t *testing.T) {
	k, dir := startKafka(t)
	must(t, k.CreateTopic("records", 3, map[string]string{"retention.ms": "-1"}))
	sent := produce(t, k, "records", 1000)
	compare(t, k.Addr, "records", sent)

	began := time.Now()
	must(t, k.Restart())
	t.Logf("Restart took %s", time.Since(began).Round(10*time.Millisecond))
	compare(t, k.Addr, "records", sent)

	must(t, k.Kill())
	must(t, k.Start())
	compare(t, k.Addr, "records", sent)

	must(t, k.Stop())
	again, err := StartKafka(dir)
	must(t, err)
	t.Cleanup(func() { _ = again.Kill() })
	if again.Addr != k.Addr {
		t.Errorf("the same folder came up on %s, before on %s", again.Addr, k.Addr)
	}
	compare(t, again.Addr, "records", sent)
}

func TestKcatLeavesOutWhatWasNotCommitted(t *testing.T) {
	k, _ := startKafka(t)
	must(t, k.CreateTopic("txn", 1, nil))
	config := producerConfig()
	config.Producer.Transaction.ID = "peers"
	producer, err := sarama.NewSyncProducer([]string{k.Addr}, config)
	must(t, err)
	defer producer.Close()
	for i, end := range []func() error{producer.CommitTxn, producer.AbortTxn, producer.CommitTxn} {
		must(t, producer.BeginTxn())
		for range 10 {
			_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: "txn", Value: sarama.StringEncoder(strconv.Itoa(i))})
			must(t, err)
		}
		must(t, end())
	}
	count := map[string]int{}
	for _, m := range kcat(t, k.Addr, "txn") {
		count[string(m.Value)]++
	}
	if !maps.Equal(count, map[string]int{"0": 10, "2": 10}) {
		t.Errorf("committed records by transaction: %v, want 10 of 0 and of 2", count)
	}
	if all := kcat(t, k.Addr, "txn", "-X", "isolation.level=read_uncommitted"); len(all) != 30 {
		t.Errorf("read uncommitted: %d records, want 30", len(all))
	}
}

func TestKafkaPauseAndResume(t *testing.T) {
	k, _ := startKafka(t)
	must(t, k.Pause())
	config := kafkaClient()
	config.Net.ReadTimeout = 2 * time.Second
	config.ApiVersionsRequest = false
	broker := sarama.NewBroker(k.Addr)
	must(t, broker.Open(config))
	if up, err := broker.Connected(); !up {
		t.Fatalf("connect to a paused broker: %v, want a connection, as the kernel accepts it", err)
	}
	if _, err := broker.GetMetadata(sarama.NewMetadataRequest(config.Version, nil)); err == nil {
		t.Error("a paused broker answered")
	}
	must(t, broker.Close())
	must(t, k.Resume())
	must(t, leadsAll(k.Addr))
	must(t, k.Pause())
	must(t, k.Stop()) // ends a paused one too
}

func TestKafkaOptions(t *testing.T) {
	k, _ := startKafka(t, AutoCreateTopics(false), MessageMaxBytes(2000), KafkaSet("log.message.timestamp.type", "LogAppendTime"))
	config := producerConfig()
	config.Metadata.Retry.Max = 1
	producer, err := sarama.NewSyncProducer([]string{k.Addr}, config)
	must(t, err)
	defer producer.Close()

	_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: "none", Value: sarama.StringEncoder("x")})
	if !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("send to a missing topic: %v, want ErrUnknownTopicOrPartition", err)
	}
	if got, err := Kcat(t.Context(), k.Addr, "none"); err == nil {
		t.Errorf("kcat read %d records of a missing topic, want an error", len(got))
	}

	must(t, k.CreateTopic("small", 1, nil))
	if err := k.CreateTopic("small", 1, nil); !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		t.Errorf("create a topic twice: %v", err)
	}
	_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: "small", Value: sarama.ByteEncoder(make([]byte, 3000))})
	if !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		t.Errorf("send 3000 bytes: %v, want ErrMessageSizeTooLarge", err)
	}
	old := time.Now().Add(-48 * time.Hour)
	_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: "small", Timestamp: old})
	must(t, err)
	got := kcat(t, k.Addr, "small")
	if len(got) != 1 || got[0].Value != nil || got[0].Key != "" || got[0].Time < time.Now().Add(-time.Hour).UnixMilli() {
		t.Errorf("got %+v, want one record without key and value, with the broker's time", got)
	}
}

func TestPeersDieWithTheTest(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVar+"="+t.TempDir())
	stdin, err := child.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	var pids [2]int
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscanf(line, "pids %d %d", &pids[0], &pids[1])
	}
	if err := errors.Join(child.Process.Kill(), err); err != nil {
		t.Fatalf("child said %q: %v", line, err)
	}
	_ = child.Wait() // says it was killed
	for _, pid := range pids {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := poll(ctx, nil, func() error { return gone(pid) }); err != nil {
			t.Error(err)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		cancel()
	}
}

// gone is nil when the process has ended; it may still wait for its parent.
func gone(pid int) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	if strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
		return nil
	}
	return fmt.Errorf("pid %d outlived its test: %s", pid, stat)
}

func TestPlakaIsWhole(t *testing.T) {
	path, err := Plaka()
	must(t, err)
	text, err := os.ReadFile(path)
	must(t, err)
	if n := bytes.Count(text, []byte("$")); n < 100_000 {
		t.Errorf("%s has %d sentences, want more than 100,000", path, n)
	}
}

func TestKafkaVersionIsThatOfThePom(t *testing.T) {
	pom, err := os.ReadFile("../../../.ci/kafka/pom.xml")
	must(t, err)
	if want := "<kafka.version>" + KafkaVersion + "</kafka.version>"; !bytes.Contains(pom, []byte(want)) {
		t.Errorf(".ci/kafka/pom.xml does not hold %s", want)
	}
}
