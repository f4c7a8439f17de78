package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// Addresses is where the servers of a plant listen.
type Addresses struct {
	MQTT   string            `json:"mqtt,omitempty"`
	Kafka  string            `json:"kafka,omitempty"`
	Modbus map[string]string `json:"modbus,omitempty"` // URL of each line, as a gateway takes it
}

// PlantReport is what the plant has done so far.
type PlantReport struct {
	Seconds   float64                `json:"seconds"` // since the start
	Sent      int64                  `json:"sent"`    // by devices
	Acked     int64                  `json:"acked"`   // to devices
	Failed    int64                  `json:"failed"`  // messages whose acknowledgement never came
	LinksLost int64                  `json:"links_lost"`
	Broker    BrokerCounts           `json:"broker"`
	Link      LinkState              `json:"link"`              // to Kafka
	Devices   map[string]DeviceCount `json:"devices,omitempty"` // only in the last report
	Modbus    map[string]ModbusCount `json:"modbus,omitempty"`  // by line; units only in the last report
}

// faults says what the plant itself did wrong.
func (r PlantReport) faults() []string {
	var f []string
	add := func(n int64, format string) {
		if n != 0 {
			f = append(f, fmt.Sprintf(format, n))
		}
	}
	add(r.Broker.Dropped, "the plant's own MQTT broker dropped %d messages")
	add(r.Broker.Unheard, "%d messages were published before anybody had subscribed")
	add(r.Failed, "%d messages were never acknowledged to the devices")
	add(r.LinksLost, "devices lost their connection to the plant's own broker %d times")
	for _, name := range slices.Sorted(maps.Keys(r.Modbus)) {
		if m := r.Modbus[name]; m.Fault != "" {
			f = append(f, m.Fault)
		}
	}
	return f
}

// plant is a running plant.
type plant struct {
	cfg     *Config
	broker  *mqttBroker
	kafka   *kafkaBroker
	modbus  []*modbusLine
	fleet   *fleet
	started time.Time
	stopped bool // devices were stopped
}

// startPlant starts the servers of cfg, no device yet.
func startPlant(cfg *Config) (*plant, error) {
	p := &plant{cfg: cfg, started: time.Now()}
	if cfg.MQTT != nil {
		b, err := startBroker(cfg.MQTT.Listen, sessionLimit)
		if err != nil {
			return nil, err
		}
		p.broker = b
		p.fleet = newFleet(cfg, b.addr)
	}
	if cfg.Kafka != nil {
		k, err := startKafka(cfg.Kafka)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.kafka = k
	}
	for i := range cfg.Modbus {
		l, err := startModbus(&cfg.Modbus[i], cfg.Seed, p.started)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.modbus = append(p.modbus, l)
	}
	return p, nil
}

func (p *plant) addresses() Addresses {
	var a Addresses
	if p.broker != nil {
		a.MQTT = p.broker.addr
	}
	if p.kafka != nil {
		a.Kafka = p.kafka.addr
	}
	for _, l := range p.modbus {
		if a.Modbus == nil {
			a.Modbus = map[string]string{}
		}
		a.Modbus[l.cfg.Name] = l.url
	}
	return a
}

// awaitSubscriber returns when somebody has subscribed, wait has passed or ctx
// ended; it reports whether somebody has.
func (p *plant) awaitSubscriber(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-p.broker.subscribed:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// startDevices lets the devices speak until stopDevices or the end of ctx.
func (p *plant) startDevices(ctx context.Context) {
	if p.fleet != nil && p.fleet.cancel == nil {
		p.fleet.run(ctx)
	}
}

// stopDevices silences the devices, waits for what they sent to be
// acknowledged, and says what went wrong with them.
func (p *plant) stopDevices() error {
	if p.fleet == nil || p.fleet.cancel == nil || p.stopped {
		return nil
	}
	p.stopped = true
	p.fleet.stop()
	p.broker.settle()
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	return errors.Join(p.fleet.errs...)
}

// report returns the counts so far; with every device when full.
func (p *plant) report(full bool) PlantReport {
	r := PlantReport{Seconds: time.Since(p.started).Round(time.Millisecond).Seconds()}
	if p.fleet != nil {
		r.Sent, r.Acked = p.fleet.sent.Load(), p.fleet.acked.Load()
		r.Failed, r.LinksLost = p.fleet.failed.Load(), p.fleet.lost.Load()
		r.Broker = p.broker.counts()
		if full {
			r.Devices = p.fleet.counts()
		}
	}
	if p.kafka != nil {
		r.Link = p.kafka.link.State()
	}
	for _, l := range p.modbus {
		if r.Modbus == nil {
			r.Modbus = map[string]ModbusCount{}
		}
		r.Modbus[l.cfg.Name] = l.counts(full)
	}
	return r
}

// close ends everything.
func (p *plant) close() error {
	err := p.stopDevices()
	if p.broker != nil {
		err = errors.Join(err, p.broker.close())
	}
	if p.kafka != nil {
		err = errors.Join(err, p.kafka.close())
	}
	for _, l := range p.modbus {
		l.close()
	}
	return err
}

// runCuts cuts the link to Kafka on schedule until ctx ends.
func (p *plant) runCuts(ctx context.Context, cuts []CutSchedule) {
	wait := func(at time.Duration) bool {
		t := time.NewTimer(time.Until(p.started.Add(at)))
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, c := range cuts {
		if !wait(c.At) {
			return
		}
		if err := p.kafka.link.Cut(c.Mode); err != nil {
			return // cannot happen: the configuration was checked
		}
		ended := wait(c.At + c.For)
		p.kafka.link.Restore()
		if !ended {
			return
		}
	}
}

// joinRemove removes a directory we made and adds what went wrong to err.
func joinRemove(err error, dir string) error {
	if rerr := os.RemoveAll(dir); rerr != nil {
		return errors.Join(err, fmt.Errorf("remove %s: %w", dir, rerr))
	}
	return err
}
