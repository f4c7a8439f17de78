package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	// slowTrip is a round trip from which the settings should be other ones.
	slowTrip = 300 * time.Millisecond
	// wrongClock is a difference from which clocks are said to differ.
	wrongClock = time.Minute
)

// checker tries out what a sink needs. It writes no record: rights are asked for
// (KIP-430), or tried with requests that change nothing.
type checker struct {
	*Sink
	ctx    context.Context
	tell   func(gateway.Finding)
	sess   *session // only dials and cuts; has no client
	config *sarama.Config
	admin  *sarama.Broker // the first that answered
	meta   *sarama.MetadataResponse

	mu     sync.Mutex // guards opened
	opened []*sarama.Broker
}

// open begins a connection to b, to be closed with the check.
func (k *checker) open(b *sarama.Broker) error {
	k.mu.Lock()
	k.opened = append(k.opened, b)
	k.mu.Unlock()
	if err := b.Open(k.config); err != nil && !errors.Is(err, sarama.ErrAlreadyConnected) {
		return err
	}
	_, err := b.Connected()
	return err
}

// close ends every connection.
func (k *checker) close() {
	k.sess.cut()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.opened {
		_ = b.Close() // says that it is not connected
	}
}

func (k *checker) ok(what, format string, args ...any) {
	k.tell(gateway.Finding{Level: gateway.OK, What: what, Detail: fmt.Sprintf(format, args...)})
}

func (k *checker) bad(level gateway.Level, what, detail, fix string) {
	k.tell(gateway.Finding{Level: level, What: what, Detail: detail, Fix: fix})
}

// Check implements gateway.Checker.
func (c *Config) Check(ctx context.Context, env gateway.Env, report func(gateway.Finding)) {
	built, err := c.Sink(env)
	if err != nil {
		report(gateway.Finding{Level: gateway.Fail, What: "options", Detail: err.Error()})
		return
	}
	k := &checker{Sink: built.(*Sink), ctx: ctx, tell: report}
	k.check()
}

func (k *checker) check() {
	ctx, stop := context.WithCancel(k.ctx)
	defer stop()
	k.sess = &session{dial: k.dial, ctx: ctx, stop: stop, conns: make(map[*conn]struct{})}
	defer context.AfterFunc(ctx, k.sess.cut)() // sarama's calls take no context
	defer k.close()
	k.clock()
	if err := k.secure.ready(ctx); err != nil {
		k.bad(gateway.Fail, "token", err.Error(), "")
		return
	}
	if k.secure.tokens != nil {
		k.ok("token", "the token server %s gives one", k.secure.tokens.server())
		k.tokenClock()
	}
	conf, err := k.clientConfig()
	if err != nil {
		k.bad(gateway.Fail, "options", err.Error(), "")
		return
	}
	conf.Net.Proxy.Enable, conf.Net.Proxy.Dialer = true, k.sess
	k.config = conf
	k.brokers("", k.cfg.Brokers)
	k.certificates()
	if k.admin == nil || !k.metadata() {
		return
	}
	k.advertised()
	k.idempotent()
	k.topics()
	k.transactions()
}

// certificates reports when they end.
func (k *checker) certificates() {
	for _, f := range k.secure.facts(time.Now()) {
		if f.Warn {
			k.bad(gateway.Note, f.Name, f.Value, "")
		} else {
			k.ok(f.Name, "%s", f.Value)
		}
	}
}

// clock reports whether the time of this machine is believed. Kafka tells no
// time of its own.
func (k *checker) clock() {
	now := time.Now()
	text := now.UTC().Format("2006-01-02 15:04:05 UTC")
	if gateway.SystemClock().Trusted() {
		k.ok("clock", "%s, synchronised as the kernel says (Kafka itself tells no time to compare with)", text)
		return
	}
	k.bad(gateway.Note, "clock", "it says "+text+" and the kernel does not call it synchronised: certificates and record times may be judged wrongly",
		"timedatectl set-ntp true, or set the clock by hand")
}

// tokenClock compares with the Date header of the token server.
func (k *checker) tokenClock() {
	t := k.secure.tokens
	t.mu.Lock()
	date, asked := t.date, t.asked
	t.mu.Unlock()
	if date.IsZero() {
		return
	}
	if d := date.Sub(asked); d.Abs() > wrongClock {
		k.bad(gateway.Note, "clock", fmt.Sprintf("it differs from that of the token server by %s (its Date header)", d.Round(time.Second)), "timedatectl set-ntp true")
		return
	}
	k.ok("clock", "within a minute of the token server's (its Date header)")
}

// metadata asks for the brokers and topics.
func (k *checker) metadata() bool {
	var names []string
	if k.exact && k.cfg.PositionTopic != "" {
		names = append(names, k.cfg.PositionTopic)
	}
	if !strings.Contains(k.cfg.Topic, "{") {
		names = append(names, k.cfg.Topic)
	}
	q := sarama.NewMetadataRequest(k.config.Version, names)
	if q.Version >= 8 { // KIP-430
		q.Version = min(q.Version, 10) // the last that tells of the cluster too
		q.IncludeTopicAuthorizedOperations, q.IncludeClusterAuthorizedOperations = true, true
	}
	answer, err := k.admin.GetMetadata(q)
	if err != nil {
		k.bad(gateway.Fail, "metadata", fmt.Sprintf("read from %s: %v", k.admin.Addr(), err), k.fix(err, ""))
		return false
	}
	k.meta = answer
	return true
}

// advertised tries the brokers under the addresses that they tell clients.
func (k *checker) advertised() {
	var others []string
	for _, b := range k.meta.Brokers {
		if !slices.Contains(k.cfg.Brokers, b.Addr()) {
			others = append(others, b.Addr())
		}
	}
	k.brokers("told by the cluster (advertised.listeners)", others)
}

// advertisedFix explains the classic mistake.
func (k *checker) advertisedFix(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	own, _, _ := net.SplitHostPort(k.cfg.Brokers[0])
	text := "records go to the address that a broker advertises, not to the one in brokers: set advertised.listeners in its server.properties to an address that is reached from here"
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return addr + " is this machine itself; " + text + ", such as " + own
	}
	return text + ", or make " + host + " resolve and reachable (DNS, route, firewall)"
}

// idempotent asks for a producer id, as every start does.
func (k *checker) idempotent() {
	err := k.producerID()
	for try := 0; try < 10 && errors.Is(err, sarama.ErrOffsetsLoadInProgress) && k.ctx.Err() == nil; try++ {
		rest(k.ctx, 200*time.Millisecond) // the first that asks a broker is told so while it gets ids for itself
		err = k.producerID()
	}
	switch {
	case err == nil:
		k.ok("idempotent writes", "allowed")
	case errors.Is(err, sarama.ErrOffsetsLoadInProgress):
		k.bad(gateway.Note, "idempotent writes", "the cluster is still starting", "try again in a moment")
	default:
		k.bad(gateway.Fail, "idempotent writes", err.Error(), k.fix(err, ""))
	}
}

// producerID asks for one.
func (k *checker) producerID() error {
	answer, err := k.admin.InitProducerID(&sarama.InitProducerIDRequest{Version: 1, ProducerID: -1, ProducerEpoch: -1})
	if err == nil && answer.Err != sarama.ErrNoError {
		err = answer.Err
	}
	return err
}

// transactions tries what exactly-once delivery needs.
func (k *checker) transactions() {
	if !k.exact {
		return
	}
	answer, err := k.admin.FindCoordinator(&sarama.FindCoordinatorRequest{Version: 1, CoordinatorKey: k.txnID, CoordinatorType: sarama.CoordinatorTransaction})
	if err == nil && answer.Err != sarama.ErrNoError {
		err = answer.Err
	}
	switch {
	case err == nil:
		k.ok("transactions", "offered; coordinator %s%s", answer.Coordinator.Addr(), k.brokerLimits())
	case errors.Is(err, sarama.ErrConsumerCoordinatorNotAvailable):
		k.ok("transactions", "offered; nobody has used them in this cluster yet")
	case errors.Is(err, sarama.ErrTransactionalIDAuthorizationFailed):
		k.bad(gateway.Fail, "transactions", "not allowed, and exactly-once delivery needs them", k.fix(err, ""))
	case k.cfg.Delivery == wordAuto:
		k.bad(gateway.Note, "transactions", fmt.Sprintf("not to be had: %v; records are delivered at least once", err), "")
	default:
		k.bad(gateway.Fail, "transactions", fmt.Sprintf("not to be had: %v", err), "set delivery: at-least-once")
	}
	k.positionGroup()
}

// positionGroup tries to read the group that keeps the position of a lane.
func (k *checker) positionGroup() {
	group := k.group + "-" + gateway.LaneTelemetry.String()
	at, err := k.admin.FindCoordinator(&sarama.FindCoordinatorRequest{Version: 1, CoordinatorKey: group, CoordinatorType: sarama.CoordinatorGroup})
	if err == nil && at.Err != sarama.ErrNoError {
		err = at.Err
	}
	if errors.Is(err, sarama.ErrGroupAuthorizationFailed) {
		k.bad(gateway.Fail, "group "+group, "it may not be read, and keeps the position of exactly-once delivery", k.fix(err, ""))
	}
}

// brokerLimits tells the limits of a broker, when they may be read.
func (k *checker) brokerLimits() string {
	const cluster = sarama.BrokerResource
	if len(k.meta.Brokers) == 0 {
		return ""
	}
	got, err := k.configs(cluster, fmt.Sprint(k.meta.Brokers[0].ID()), "transaction.max.timeout.ms", "transactional.id.expiration.ms", "offsets.retention.minutes")
	if err != nil {
		return "; limits unknown, as they may not be read (DescribeConfigs on the cluster)"
	}
	return fmt.Sprintf("; a transaction may take %s, an unused id is forgotten after %s, offsets after %s", span(got["transaction.max.timeout.ms"], time.Millisecond),
		span(got["transactional.id.expiration.ms"], time.Millisecond), span(got["offsets.retention.minutes"], time.Minute))
}

// fix is the hint about err, bare: a command begins it.
func (k *checker) fix(err error, topic string) string {
	text := strings.TrimSuffix(strings.TrimPrefix(k.hint(err, topic), " ("), ")")
	return strings.TrimPrefix(strings.TrimPrefix(text, "allow it: "), "create it: ")
}
