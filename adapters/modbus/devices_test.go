package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/waystation-iot/waystation/gateway"
)

// shipped reads a profile that comes with the gateway.
func shipped(t *testing.T, file string) *Profile {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &Profile{}
	if err := yaml.Unmarshal(text, p); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return p
}

// TestShippedProfiles holds what every profile that comes along must have.
func TestShippedProfiles(t *testing.T) {
	files, err := filepath.Glob("../../configs/devices/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		p := shipped(t, file)
		if p.Name == "" || p.Doc == "" || p.Source == "" {
			t.Errorf("%s: needs name, doc and source", file)
		}
		for _, err := range p.validate("profile") {
			t.Errorf("%s: %v", file, err)
		}
		for i := range p.Groups {
			if _, err := compile(p, &p.Groups[i]); err != nil || p.Groups[i].Every == 0 {
				t.Errorf("%s: group %s: every %s, %v", file, p.Groups[i].Name, p.Groups[i].Every, err)
			}
		}
	}
}

// words are registers of a device: table and address, then their contents.
type words map[string]map[int][]uint16

// decoded returns the values of a group when the device has these registers;
// what is not among them reads 0.
func decoded(t *testing.T, p *Profile, g *Group, w words) map[string]gateway.Value {
	t.Helper()
	d, err := compile(p, g)
	if err != nil {
		t.Fatal(err)
	}
	var results []reading
	for _, s := range d.spans() {
		flat := map[int]uint16{}
		for at, run := range w[tableOf(s.function)] {
			for i, v := range run {
				flat[at+i] = v
			}
		}
		var data []byte
		for a := s.address; a < s.end(); a++ {
			data = binary.BigEndian.AppendUint16(data, flat[a])
		}
		results = append(results, reading{data: data})
	}
	out := map[string]gateway.Value{}
	for _, v := range d.values(nil, results) {
		out[v.Name] = v
	}
	return out
}

// show writes a value as a test names it.
func showReadings(v gateway.Value) string {
	if v.Quality != gateway.Good {
		return v.Quality.String()
	}
	s := ""
	switch v.Kind() {
	case gateway.KindFloat:
		s = fmt.Sprintf("%.5g", v.Float())
	case gateway.KindInt:
		s = fmt.Sprint(v.Int())
	case gateway.KindUint:
		s = fmt.Sprint(v.Uint())
	case gateway.KindBool:
		s = fmt.Sprint(v.Bool())
	default:
		s = v.Text()
	}
	return strings.TrimSpace(s + " " + v.Unit)
}

// golden are registers, mostly from examples of the manuals, and the values
// they must give.
var golden = []struct {
	file, group string
	words       words
	want        map[string]string
}{
	{"sdm630", "power", words{"input": {0: {0x4366, 0x3334}, 12: {0xC2C8, 0}, 70: {0x4248, 0}}}, map[string]string{"voltage_l1": "230.2 V", "power_l1": "-100 W", "frequency": "50 Hz", "voltage_l2": "0 V"}},
	{"sdm630", "energy", words{"input": {72: {0x44FA, 0x2000}, 342: {0x7FC0, 0}}}, map[string]string{"energy_import": "2001 kWh", "energy": "bad"}},
	{"em24", "power", words{"holding": {0: {2305, 0}, 18: {0xFC18, 0xFFFF}, 40: {0x86A0, 1}, 51: {499}, 2: {0xFFFF, 0x7FFF}}}, map[string]string{"voltage_l1": "230.5 V", "power_l1": "-100 W", "power": "10000 W", "frequency": "49.9 Hz", "voltage_l2": "bad"}},
	{"xy-md02", "climate", words{"input": {1: {0x0131, 0x0222}}}, map[string]string{"temperature": "30.5 °C", "humidity": "54.6 %"}},
	{"xy-md02", "climate", words{"input": {1: {0xFF33, 0x0222}}}, map[string]string{"temperature": "-20.5 °C"}},
	{"dse-gencomm", "engine", words{"holding": {1024: {0xFFFC, 58, 32767, 82, 0, 269, 1432}}}, map[string]string{"oil_pressure": "bad", "coolant_temperature": "58 °C", "oil_temperature": "bad", "fuel_level": "82 %", "battery_voltage": "26.9 V", "speed": "1432 rpm", "charge_alternator_voltage": "0 V"}},
	{"dse-gencomm", "generator", words{"holding": {1031: {500, 0, 2301}, 1052: {0xFFFF, 0xFC18}, 1044: {0xFFFF, 0xFFFF}}}, map[string]string{"frequency": "50 Hz", "voltage_l1": "230.1 V", "power_l1": "-1000 W", "current_l1": "bad"}},
	{"dse-gencomm", "status", words{"holding": {772: {1, 0, 0x1400}, 1408: {3}}}, map[string]string{"mode": "auto", "engine_state": "running", "alarms.shutdown": "true", "alarms.warning": "true", "alarms.electrical_trip": "false"}},
	{"dse-gencomm", "alarms", words{"holding": {39425: {0x1342, 0x1111}}}, map[string]string{"emergency_stop": "inactive", "low_oil_pressure": "shutdown", "high_coolant_temperature": "electrical_trip", "high_oil_temperature": "warning", "fail_to_stop": "inactive"}},
	{"acs550", "drive", words{"holding": {3: {0x0337}, 101: {1480, 499, 123, 0xFF9C, 75, 565}}}, map[string]string{"status.running": "true", "status.tripped": "false", "status.remote": "true", "speed": "1480 rpm", "frequency": "49.9 Hz", "current": "12.3 A", "torque": "-10 %", "power": "7.5 kW", "dc_voltage": "565 V"}},
	{"rdf302", "room", words{"input": {1001: {3, 66, 1075, 1050}, 1008: {0xFFFF}}}, map[string]string{"mode": "economy", "fan": "66 %", "temperature": "21.5 °C", "setpoint": "21 °C", "temperature_x1": "bad", "fan_operation": "automatic"}},
	{"rdf302", "fault", words{"input": {1100: {0x4669, 0x6C74, 0x6572, 0x2064, 0x6972, 0x7479}}}, map[string]string{"fault": "Filter dirty"}},
}

func TestGoldenValues(t *testing.T) {
	seen := map[string]bool{}
	for _, tc := range golden {
		t.Run(tc.file+" "+tc.group, func(t *testing.T) {
			p := shipped(t, "../../configs/devices/"+tc.file+".yaml")
			seen[tc.file] = true
			for i := range p.Groups {
				if p.Groups[i].Name != tc.group {
					continue
				}
				got := decoded(t, p, &p.Groups[i], tc.words)
				for name, want := range tc.want {
					if v, ok := got[name]; !ok || showReadings(v) != want {
						t.Errorf("%s: got %s, want %s", name, showReadings(v), want)
					}
				}
				return
			}
			t.Errorf("no group %s", tc.group)
		})
	}
	files, _ := filepath.Glob("../../configs/devices/*.yaml")
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".yaml"); !seen[name] && name != "sunspec" {
			t.Errorf("%s has no golden values", name)
		}
	}
}

// TestGoldenSunSpec finds the models of an inverter with two inputs and its
// meter, and decodes them.
func TestGoldenSunSpec(t *testing.T) {
	p := shipped(t, "../../configs/devices/sunspec.yaml")
	m := sunspecMap(40000, 1, 66, 103, 50, 160, 48, 203, 105)
	put := func(at int, values ...uint16) {
		for i, v := range values {
			m.words[at+i] = v
		}
	}
	for i := 0; i < 16; i += 2 {
		put(40004+i, 0)
	}
	put(40004, 0x4672, 0x6F6E, 0x6975, 0x7300) // Fronius
	inverter, mppt, meter := 40070, 40122, 40172
	put(inverter+2, 1234, 411, 0xFFFF, 0, 0xFFFE)       // current × 10^-2
	put(inverter+14, 0xFB2E, 1, 5001, 0xFFFE)           // power × 10^1, frequency × 10^-2
	put(inverter+22, 0x8000, 0x8000, 0x0001, 0x86A0, 1) // no power factor; 100,000 × 10^1 Wh
	put(inverter+38, 4, 0xFFFF, 0, 0x0081)              // running; over temperature and ground fault
	put(mppt+2, 0xFFFE, 0xFFFF, 0, 0)                   // factors
	put(mppt+10+9, 812, 6204, 5037)                     // first input
	put(mppt+30+9, 0xFFFF, 6100, 0)                     // second
	put(meter+16, 0x1388, 0xFFFE, 0xFC18, 0, 0, 0, 0)   // 50 Hz, -1000 W
	put(meter+46, 0, 4242, 0, 1, 0, 2, 0, 3, 0)         // import
	groups, err := p.SunSpec.discover(t.Context(), func(ctx context.Context, q *request) ([]byte, error) { return m.ask(ctx, q) })
	if err != nil {
		t.Fatal(err)
	}
	holding := words{"holding": {}}
	for at, v := range m.words {
		holding["holding"][at] = []uint16{v}
	}
	want := map[string]map[string]string{
		"common":   {"manufacturer": "Fronius"},
		"inverter": {"current": "12.34 A", "current_l1": "4.11 A", "current_l2": "bad", "power": "-12340 W", "frequency": "50.01 Hz", "power_factor": "bad", "energy": "1e+06 Wh", "state": "running", "vendor_state": "bad", "events.ground_fault": "true", "events.over_temperature": "true", "events.dc_disconnect": "false"},
		"mppt":     {"mppt_1_current": "8.12 A", "mppt_1_voltage": "620.4 V", "mppt_1_power": "5037 W", "mppt_2_current": "bad", "mppt_2_voltage": "610 V"},
		"meter":    {"frequency": "50 Hz", "power": "-1000 W", "energy_import": "4242 Wh", "energy_import_l3": "3 Wh"},
	}
	for i := range groups {
		got := decoded(t, p, &groups[i], holding)
		for name, text := range want[groups[i].Name] {
			if v, ok := got[name]; !ok || showReadings(v) != text {
				t.Errorf("%s.%s: got %s, want %s", groups[i].Name, name, showReadings(v), text)
			}
		}
		if _, ok := got["mppt_3_current"]; ok {
			t.Error("an input beyond the end of the model was read")
		}
		delete(want, groups[i].Name)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
}
