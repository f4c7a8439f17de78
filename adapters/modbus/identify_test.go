package modbus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

func TestIdentify(t *testing.T) {
	long := strings.Repeat("x", 200)
	for name, tt := range map[string]struct {
		objects map[byte]string
		fault   modbustest.Fault
		want    string
	}{
		"all":       {objects: map[byte]string{0: "ACME", 1: "M-2", 2: "V1.4", 5: "Model"}, want: "[{vendor ACME} {product M-2} {revision V1.4}]"},
		"padded":    {objects: map[byte]string{0: " ACME \x00\x00", 1: "M\n2", 2: "V\xb5"}, want: "[{vendor ACME} {product M 2} {revision Vµ}]"},
		"more":      {objects: map[byte]string{0: long, 1: long, 2: "V1"}, want: fmt.Sprintf("[{vendor %s} {product %[1]s} {revision V1}]", long[:64])},
		"none":      {want: "[]"},
		"some":      {objects: map[byte]string{1: "M-2"}, want: "[{product M-2}]"},
		"busy":      {objects: map[byte]string{0: "ACME"}, fault: modbustest.Fault{Exception: 6}, want: "[]"},
		"too short": {objects: map[byte]string{0: "ACME", 1: "Mark 2"}, fault: modbustest.Fault{Short: 3}, want: "[{vendor ACME} {product Mar}]"},
	} {
		t.Run(name, func(t *testing.T) {
			s := tellingPlant(t, 1)
			s.Unit(1).SetIdentity(tt.objects)
			s.FaultOnce(tt.fault)
			l := tcpLine(t, s, 1)
			tags, err := identify(t.Context(), l, 1, 5*time.Second)
			if got := fmt.Sprint(tags); err != nil || got != tt.want {
				t.Errorf("%s %v", got, err)
			}
		})
	}
	s := tellingPlant(t, 1)
	s.Fault(modbustest.Fault{Dead: true})
	l := tcpLine(t, s, 1)
	if _, err := identify(t.Context(), l, 1, brief); !isSilence(err) {
		t.Error(err)
	}
}

// TestIdentifyEndless is a device that always has more to tell.
func TestIdentifyEndless(t *testing.T) {
	asked := 0
	l := askedBy(func(_ ctxType, q *request) ([]byte, error) {
		asked++
		return []byte{1, 1, 0xFF, byte(asked % 3), 9, 0, 3, 'a', 'b', 'c', 7}, nil
	})
	tags, err := identify(t.Context(), l, 1, time.Second)
	if fmt.Sprint(tags) != "[{vendor abc}]" || err != nil || asked > mostIdentify {
		t.Error(tags, err, asked)
	}
}

// FuzzIdentify: whatever a device answers makes tags that can be shown.
func FuzzIdentify(f *testing.F) {
	f.Add([]byte{0x0E, 1, 1, 0xFF, 1, 2, 0, 2, 'a', 'b', 1, 200, 'c'})
	f.Fuzz(func(t *testing.T, answer []byte) {
		n := 0
		l := askedBy(func(_ ctxType, q *request) ([]byte, error) {
			n++
			return q.answer(pduOf(encapsulated, answer))
		})
		tags, _ := identify(t.Context(), l, 1, time.Second)
		for _, tag := range tags {
			if tag.Value == "" || len(tag.Value) > mostIdentifier || strings.ContainsAny(tag.Value, "\n\x00") || n > mostIdentify {
				t.Fatalf("%q after %d", tag, n)
			}
		}
	})
}
