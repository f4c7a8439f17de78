package peers

import (
	"bytes"
	"maps"
	"os"
	"testing"
)

func TestParseMbpoll(t *testing.T) {
	out := "-- Polling slave 1...\n[0]: \t1234\n[1]: \t65526 (-10)\n[7]: \t1.5\n[100]: \t0x00FF\n\n"
	got, err := parseMbpoll(out)
	want := map[int]string{0: "1234", 1: "65526", 7: "1.5", 100: "0x00FF"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, out := range []string{"", "-- Polling slave 1...\n", "[x]: 1\n", "[1] 1\n"} {
		if got, err := parseMbpoll(out); err == nil {
			t.Errorf("parse %q: got %v, want an error", out, got)
		}
	}
}

// TestVersionsOfTheSlaves holds the versions that the script installs.
func TestVersionsOfTheSlaves(t *testing.T) {
	for path, want := range map[string][]string{
		"../../../.ci/interop-deps":            {"modbus-serial@" + ModbusSerialVersion + " ", "jsmodbus@" + JSModbusVersion + " "},
		"../../../.ci/python/requirements.txt": {"\npymodbus==" + PyModbusVersion + "\n"},
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !bytes.Contains(text, []byte(w)) {
				t.Errorf("%s does not hold %q", path, w)
			}
		}
	}
}
