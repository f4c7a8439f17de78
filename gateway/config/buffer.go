package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Bounds of the section buffer. Those of lanes are the queue's.
const (
	minBytes     = 16 << 20
	minSegment   = 64 << 10
	maxSegment   = 128 << 20
	maxLanes     = 16
	maxLaneName  = 32
	minLaneBytes = 1 << 20
	maxMaxDelay  = 10 * time.Minute
	minLarge     = 4 << 10
)

// Lane is one lane of the queue as configured, with its defaults filled in.
// Its place in Config.Lanes is its number and its priority.
type Lane struct {
	Name     string
	Share    int // percent
	MaxDelay time.Duration
	MaxBytes gateway.Size // 0 = the budget of the queue alone
	Policy   string       // "" = that of the queue
}

// laneConfig is a lane as it is written.
type laneConfig struct {
	Name     string         `yaml:"name" example:"telemetry" doc:"Name of the lane, unique. It is a directory of the queue and travels with every record. 1 to 32 of a-z 0-9 _ -"`
	Share    *int           `yaml:"share" unit:"percent" doc:"Part of what goes to a sink that this lane gets even while lanes above it have more, 0 to 45; all lanes together at most 45. 0: it waits until the lanes above are empty. Default: 0 for the first lane, 10 for the second, 5 or less for the others."`
	MaxDelay *time.Duration `yaml:"max_delay" doc:"How long records that nobody waits for (polled values, MQTT at QoS 0) may wait for their commit, to spare the medium; at most 10m. A record that somebody waits for is committed at once. Default: 0s for the first lane, 1s for the others."`
	MaxBytes gateway.Size   `yaml:"max_bytes" doc:"Most that this lane may take of the queue's max_bytes. 0B: no limit of its own."`
	Policy   string         `yaml:"policy" enum:"oldest,reject,thin" doc:"What makes room when the lane reaches its own max_bytes: oldest deletes its oldest records, reject acknowledges no more records for it, thin keeps every nth. Default: that of the queue, of this lane alone."`
	Default  bool           `yaml:"default" doc:"Sources that name no lane use this one. Without it: telemetry if there is one, else the second lane, or the only one."`
}

// Retain says how long records are kept after they are delivered.
type Retain struct {
	For   time.Duration `yaml:"for" doc:"Keep delivered records until they are this old. 0s: no limit of age."`
	Bytes gateway.Size  `yaml:"bytes" doc:"Keep at most this much of them, less than max_bytes. 0B: no limit of its own. Both 0: nothing is kept."`
}

// Encryption says with what stored records are encrypted.
type Encryption struct {
	Key     gateway.Secret   `yaml:"key" example:"file:queue.key" doc:"Key of 32 random bytes, in hexadecimal or base64: file:PATH, env:NAME or credential:NAME (LoadCredential of the systemd unit). Empty: records are stored in plain."`
	OldKeys []gateway.Secret `yaml:"old_keys" example:"[\"file:queue-2024.key\"]" doc:"Keys of before, with which stored records can still be read. One may go when the queue holds nothing older than the change."`
}

// defaultLanes are the lanes of a queue that is not configured otherwise.
func defaultLanes() []laneConfig {
	out := make([]laneConfig, 0, 3)
	for i, name := range gateway.LaneNames() {
		share, delay := gateway.DefaultShare(i, len(gateway.LaneNames())), defaultDelay(i)
		out = append(out, laneConfig{Name: name, Share: &share, MaxDelay: &delay})
	}
	return out
}

func defaultDelay(i int) time.Duration {
	if i == 0 {
		return 0
	}
	return time.Second
}

// DeadLetterBytes is the part of max_bytes that is set aside for dead letters.
func (b *Buffer) DeadLetterBytes() int64 {
	if b.DeadLetters.MaxBytes > 0 {
		return int64(b.DeadLetters.MaxBytes)
	}
	return min(int64(b.MaxBytes)/8, 64<<20)
}

// QueueBytes is what is left of max_bytes for the queue.
func (b *Buffer) QueueBytes() int64 { return int64(b.MaxBytes) - b.DeadLetterBytes() }

// Thins reports whether a policy of the queue or of a lane is thin.
func (c *Config) Thins() bool {
	return c.Buffer.Policy == "thin" || slices.ContainsFunc(c.Lanes, func(l Lane) bool { return l.Policy == "thin" })
}

// laneNames are the names of the configured lanes.
func (c *Config) laneNames() []string {
	names := make([]string, len(c.Lanes))
	for i, l := range c.Lanes {
		names[i] = l.Name
	}
	return names
}

func (f *filler) checkBuffer(root *node) {
	b := &f.cfg.Buffer
	bad := func(key, hint, format string, args ...any) {
		f.check(root, "", &gateway.FieldError{Key: "buffer." + key, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
	if b.Dir == "" {
		bad("dir", "", "must not be empty")
	}
	if b.MaxBytes < minBytes {
		bad("max_bytes", "", "must be at least 16MiB")
	}
	if b.SegmentBytes < minSegment || b.SegmentBytes > maxSegment {
		bad("segment_bytes", "", "must be 64KiB to 128MiB")
	}
	if b.HighWater < 1 || b.HighWater > 100 {
		bad("high_water", "80 warns in time for most", "must be 1 to 100 percent")
	}
	if b.ThinEvery < 2 {
		bad("thin_every", "2 keeps half of the records, 10 a tenth", "must be at least 2: of every so many records one is kept")
	}
	if b.Large != 0 && b.Large < minLarge {
		bad("large", "1MiB suits most; 0B turns it off", "must be 0B or at least 4KiB")
	}
	if b.Retain.Bytes >= b.MaxBytes && b.MaxBytes >= minBytes {
		bad("retain.bytes", "raise max_bytes, or keep less", "%s is no less than max_bytes (%s): there would be no room for new records", b.Retain.Bytes, b.MaxBytes)
	}
	if d := b.DeadLetters.MaxBytes; d != 0 && b.MaxBytes >= minBytes && (d < minLaneBytes || d > b.MaxBytes/2) {
		bad("dead_letters.max_bytes", "0B, or leaving it out, is an eighth of max_bytes", "%s: must be 1MiB to half of max_bytes (%s)", d, b.MaxBytes/2)
	}
	f.checkKeys(root, bad)
	f.checkLanes(root, bad)
}

// checkKeys reads the keys of encryption.
func (f *filler) checkKeys(root *node, bad func(key, hint, format string, args ...any)) {
	e := &f.cfg.Buffer.Encryption
	if e.Key == "" && len(e.OldKeys) > 0 {
		bad("encryption.key", "to go on in plain, remove old_keys when nothing encrypted is left", "must not be empty when there are old_keys: the key encrypts what is written now")
		return
	}
	seen := map[[32]byte]string{}
	read := func(path string, ref gateway.Secret) {
		if ref == "" {
			return
		}
		k, err := gateway.ReadKey(ref, f.rep.dir)
		if err != nil {
			bad(path, "", "%s", err)
		} else if other, dup := seen[k]; dup {
			bad(path, "remove one", "is the same key as %s", other)
		}
		seen[k] = path
	}
	read("encryption.key", e.Key)
	for i, old := range e.OldKeys {
		if old == "" {
			bad(fmt.Sprintf("encryption.old_keys[%d]", i), "", "must not be empty")
		}
		read(fmt.Sprintf("encryption.old_keys[%d]", i), old)
	}
}

// checkLanes checks the lanes and fills in their defaults.
func (f *filler) checkLanes(root *node, bad func(key, hint, format string, args ...any)) {
	b := &f.cfg.Buffer
	switch n := len(b.Lanes); {
	case n == 0 && !f.faulty("buffer.lanes"):
		bad("lanes", "remove the line for the lanes "+strings.Join(gateway.LaneNames(), ", "), "must not be empty: needs at least one lane")
	case n > maxLanes:
		bad("lanes", "", "%d lanes: at most %d", n, maxLanes)
	case int64(n)<<20 > b.QueueBytes() && b.MaxBytes >= minBytes:
		bad("max_bytes", "", "must be at least %s for %d lanes", gateway.Size(n)<<20*8/7, n)
	}
	shares, marked := 0, 0
	for i := range b.Lanes {
		c := &b.Lanes[i]
		at := fmt.Sprintf("lanes[%d].", i)
		f.checkLane(c, at, bad)
		if j := slices.IndexFunc(b.Lanes, func(o laneConfig) bool { return o.Name == c.Name }); j < i && c.Name != "" {
			bad(at+"name", "names of lanes are unique", "name %q is taken by lane %d", c.Name, j+1)
		}
		l := Lane{Name: c.Name, Share: gateway.DefaultShare(i, len(b.Lanes)), MaxDelay: defaultDelay(i), MaxBytes: c.MaxBytes, Policy: c.Policy}
		if c.Share != nil {
			l.Share = *c.Share
		}
		if c.MaxDelay != nil {
			l.MaxDelay = *c.MaxDelay
		}
		if c.Default {
			if marked++; marked > 1 {
				bad(at+"default", "one lane is the default of all sources", "another lane is the default already")
			}
		}
		shares += l.Share
		f.cfg.Lanes = append(f.cfg.Lanes, l)
	}
	if shares > gateway.MaxShares && !f.faulty("buffer.lanes") {
		bad("lanes", "what is left is for the most urgent lane that has records", "the shares add up to %d percent: at most %d", shares, gateway.MaxShares)
	}
}

// checkLane checks the options of one lane by themselves.
func (f *filler) checkLane(c *laneConfig, at string, bad func(key, hint, format string, args ...any)) {
	b := &f.cfg.Buffer
	if len(c.Name) > maxLaneName || !only(c.Name, "_-", false) || c.Name == "" {
		bad(at+"name", "1 to 32 of a-z 0-9 _ -", "%q is not the name of a lane", clip(c.Name, 80))
	}
	if c.Share != nil && (*c.Share < 0 || *c.Share > gateway.MaxShares) {
		bad(at+"share", "", "must be 0 to %d percent", gateway.MaxShares)
	}
	if c.MaxDelay != nil && *c.MaxDelay > maxMaxDelay {
		bad(at+"max_delay", "1s spares most of what can be spared", "%s is out of range: 0s to %s", *c.MaxDelay, maxMaxDelay)
	}
	switch {
	case c.MaxBytes == 0:
		if c.Policy != "" {
			bad(at+"policy", "give the lane max_bytes, or set buffer.policy", "has no effect on a lane without max_bytes")
		}
	case c.MaxBytes < minLaneBytes:
		bad(at+"max_bytes", "", "must be at least 1MiB")
	case c.MaxBytes > b.MaxBytes && b.MaxBytes >= minBytes:
		bad(at+"max_bytes", "raise buffer.max_bytes, or leave it out", "%s is more than the whole queue may take (%s)", c.MaxBytes, b.MaxBytes)
	}
}

// defaultLane is the lane of sources that name none.
func (f *filler) defaultLane() gateway.Lane {
	for i, c := range f.cfg.Buffer.Lanes {
		if c.Default {
			return gateway.Lane(i)
		}
	}
	names := f.cfg.laneNames()
	if i := slices.Index(names, gateway.LaneTelemetry.String()); i >= 0 {
		return gateway.Lane(i)
	}
	return gateway.Lane(min(1, max(0, len(names)-1)))
}

// lane returns the lane with the name that stands at key below path, or notes
// a fault.
func (f *filler) lane(item *node, path, key, name string) gateway.Lane {
	names := f.cfg.laneNames()
	if i := slices.Index(names, name); i >= 0 {
		return gateway.Lane(i)
	}
	if f.faulty("buffer.lanes") {
		return 0
	}
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	f.check(item, path, &gateway.FieldError{Key: key, Hint: hint,
		Msg: fmt.Sprintf("must be one of %s, not the text %q", strings.Join(names, ", "), clip(name, 40))})
	return 0
}
