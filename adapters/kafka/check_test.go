package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/gateway"
)

// checked runs the check of the rig's sink and returns a line for each finding.
func (r *rig) checked(ctx context.Context, change func(c *Config)) (lines []string, failed bool) {
	r.t.Helper()
	conf := r.sink.cfg
	if change != nil {
		change(&conf)
	}
	conf.Check(ctx, gateway.Env{GatewayID: "gw1", Name: "shore"}, func(f gateway.Finding) {
		lines = append(lines, string(f.Level)+" "+f.What+": "+f.Detail+" → "+f.Fix)
		failed = failed || f.Level == gateway.Fail
	})
	return lines, failed
}

// wantLine wants a line that holds all the words.
func wantLine(t *testing.T, lines []string, words ...string) {
	t.Helper()
next:
	for _, l := range lines {
		for _, w := range words {
			if !strings.Contains(l, w) {
				continue next
			}
		}
		return
	}
	t.Errorf("no line with %q in\n%s", words, strings.Join(lines, "\n"))
}

func TestCheckFindsNothingWrong(t *testing.T) {
	r := newRig(t, 3, nil)
	lines, failed := r.checked(r.ctx(), func(c *Config) { c.Delivery = wordAuto })
	if failed {
		t.Error("failed")
	}
	for _, a := range r.c.Addrs() {
		wantLine(t, lines, "ok broker "+a, "TCP", "Kafka APIs", "round trip")
	}
	wantLine(t, lines, "ok idempotent writes: allowed")
	wantLine(t, lines, "ok topic data: 4 partitions, may be written")
	wantLine(t, lines, "topic data", "takes 1048588 bytes, keeps records 7 days")
	wantLine(t, lines, "warn topic waystation.positions: not there", "kafka-topics.sh")
	wantLine(t, lines, "ok transactions: offered")
	wantLine(t, lines, "clock: ")
	if n := r.c.PartitionInfo("data", 0).HighWatermark; n != 0 {
		t.Errorf("%d records were written", n)
	}
}

func TestCheckTopics(t *testing.T) {
	r := newRig(t, 1, nil)
	lines, failed := r.checked(r.ctx(), func(c *Config) { c.MaxMessage = 2 << 20 })
	if failed {
		t.Error("failed")
	}
	wantLine(t, lines, "warn topic data", "it takes 1048588 bytes", "max_message_bytes is 2097152", "set max_message_bytes: 1048588, or kafka-configs.sh")
	lines, failed = r.checked(r.ctx(), func(c *Config) { c.Topic = "none" })
	if !failed {
		t.Error("a missing topic is no fault")
	}
	wantLine(t, lines, "fail topic none: it does not exist", " → kafka-topics.sh --bootstrap-server "+r.c.Addrs()[0])
	lines, failed = r.checked(r.ctx(), func(c *Config) { c.Topic, c.AutoCreate = "none", true })
	if failed || r.c.TopicInfo("none") != nil {
		t.Error("failed, or the check made the topic")
	}
	wantLine(t, lines, "warn topic none: it does not exist; the first record makes it")
	lines, _ = r.checked(r.ctx(), func(c *Config) { c.Topic = "fleet.{source}" })
	wantLine(t, lines, "ok topic fleet.{source}: its name depends on the record", "--resource-pattern-type prefixed --topic fleet.")
}

func TestCheckRights(t *testing.T) {
	allow := func(res kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: res, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	const topic = kmsg.ACLResourceTypeTopic
	r := newRig(t, 1, func(c *Config) { c.SASL = SASL{Mechanism: "plain", User: "reader", Password: "geheim"} },
		kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "root"),
		kfake.User("PLAIN", "reader", "geheim", allow(topic, "data", kmsg.ACLOperationDescribe)),
		kfake.User("PLAIN", "writer", "geheim", allow(topic, "data", kmsg.ACLOperationWrite)),
		kfake.User("PLAIN", "nobody", "geheim"))
	as := func(user string) ([]string, bool) {
		return r.checked(r.ctx(), func(c *Config) { c.SASL.User = user })
	}
	lines, failed := as("reader")
	wantLine(t, lines, "ok broker", "PLAIN as User:reader")
	wantLine(t, lines, "fail topic data: User:reader may not write to it", "kafka-acls.sh --bootstrap-server "+r.c.Addrs()[0]+" --add --allow-principal User:reader --operation Write --operation Describe --topic data")
	wantLine(t, lines, "fail idempotent writes", "--topic data")
	wantLine(t, lines, "warn topic data: its limits are unknown", "--operation DescribeConfigs --topic data")
	if !failed {
		t.Error("not failed")
	}
	lines, failed = r.checked(r.ctx(), func(c *Config) { c.SASL.User, c.Delivery = "writer", wordAuto })
	wantLine(t, lines, "fail transactions: not allowed", "--transactional-id waystation-gw1")
	if !failed {
		t.Error("not failed without the right for transactions")
	}
	if lines, failed = as("writer"); failed {
		t.Error(strings.Join(lines, "\n"))
	}
	lines, failed = as("nobody")
	wantLine(t, lines, "fail topic data", "--allow-principal User:nobody")
	if !failed {
		t.Error("not failed")
	}
	lines, failed = r.checked(r.ctx(), func(c *Config) { c.SASL.Password = "wrong-word" })
	wantLine(t, lines, "fail broker", "TCP; then log-in with PLAIN: ", "check sasl.")
	if !failed || strings.Contains(strings.Join(lines, ""), "wrong-word") {
		t.Error(lines)
	}
}

// TestCheckAdvertised has brokers that tell another address than that by which
// they were found.
func TestCheckAdvertised(t *testing.T) {
	r := newRig(t, 2, nil)
	told := r.c.Addrs()[1]
	conf := r.sink.cfg
	conf.Brokers = conf.Brokers[:1]
	built, err := conf.Sink(gateway.Env{GatewayID: "gw1", Name: "shore"})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	k := &checker{Sink: built.(*Sink), ctx: r.ctx(), tell: func(f gateway.Finding) {
		lines = append(lines, string(f.Level)+" "+f.What+": "+f.Detail+" → "+f.Fix)
	}}
	dial := k.dial
	k.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == told {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
		}
		return dial(ctx, network, addr)
	}
	k.check()
	wantLine(t, lines, "fail broker "+told+", told by the cluster (advertised.listeners): TCP: ", "refused", told+" is this machine itself", "set advertised.listeners")
}

func TestCheckUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRig(t, 1, nil)
	ctx, cancel := context.WithTimeout(r.ctx(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	lines, failed := r.checked(ctx, func(c *Config) { c.Brokers = []string{l.Addr().String()} })
	if took := time.Since(began); !failed || took > 5*time.Second {
		t.Errorf("failed %v after %s", failed, took)
	}
	wantLine(t, lines, "fail broker "+l.Addr().String(), "no time was left", "--timeout")
	lines, _ = r.checked(r.ctx(), func(c *Config) { c.Brokers = []string{"127.0.0.1:1", r.c.Addrs()[0]} })
	wantLine(t, lines, "fail broker 127.0.0.1:1", "TCP: ", "refused")
	wantLine(t, lines, "warn brokers: 1 of 2 answer")
}
