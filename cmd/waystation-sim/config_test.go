package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodPlant = `seed: 7
mqtt: {listen: "127.0.0.1:0"}
devices:
  - name: press
    count: 2
    topic: plant/{device}/t
    every: 10ms
    signals: [{name: x, kind: counter}]
kafka:
  listen: 127.0.0.1:0
  cut: [{at: 1s, for: 2s}]
`

func TestConfigFaultsHavePlaces(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":        {"count: 2", "cuont: 2", `plant.yaml:5:5: unknown field "cuont"`},
		"unknown nested key": {"kind: counter", "kind: counter, colour: red", `plant.yaml:8:40: unknown field "colour"`},
		"bad duration":       {"every: 10ms", "every: fast", "plant.yaml:7:12:"},
		"no interval":        {"every: 10ms", "pad_to: 5", "give every:"},
		"both intervals":     {"every: 10ms", "every: 10ms\n    rate: 3", "plant.yaml:8:11: give every: or rate:, not both"},
		"wrong kind":         {"kind: counter", "kind: square", `plant.yaml:8:31: "square" is none of`},
		"not loopback":       {`"127.0.0.1:0"`, `"0.0.0.0:1883"`, `plant.yaml:2:16: must be a loopback address, "0.0.0.0" is not`},
		"no port":            {"127.0.0.1:0\n", "here\n", "plant.yaml:10:11: not an address"},
		"wildcard":           {"plant/{device}/t", "plant/#", "plant.yaml:6:12: give a topic without wildcards"},
		"shared topic":       {"plant/{device}/t", "plant/t", "plant.yaml:6:12: 2 devices need {device}"},
		"cut mode":           {"for: 2s", "for: 2s, mode: saw", `plant.yaml:11:33: "saw" is neither`},
		"cut length":         {"for: 2s", "for: 0s", "plant.yaml:11:23: must be more than 0"},
		"two sources":        {"every: 10ms", "every: 10ms\n    replay: x", "give signals: or replay:, one of the two"},
		"syntax":             {"kafka:", "kafka", "plant.yaml:9:"},
		"duplicate key":      {"seed: 7", "seed: 7\nseed: 8", "plant.yaml:2:1:"},
		"devices, no broker": {`mqtt: {listen: "127.0.0.1:0"}`, "", "devices need a broker"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(goodPlant, c.old) {
				t.Fatalf("the test replaces %q, which is not there", c.old)
			}
			_, err := parseConfig("plant.yaml", []byte(strings.Replace(goodPlant, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v\nwant %q in it", err, c.want)
			}
			if !strings.Contains(err.Error(), "^") {
				t.Errorf("no caret in %v", err)
			}
		})
	}
}

func TestConfigGood(t *testing.T) {
	c, err := parseConfig("plant.yaml", []byte(goodPlant))
	if err != nil {
		t.Fatal(err)
	}
	if c.Seed != 7 || c.Devices[0].Connections != 1 || c.Kafka.Cut[0].Mode != CutRefuse || c.Kafka.Partitions != 3 {
		t.Errorf("decoded %+v, kafka %+v", c, c.Kafka)
	}
}

func TestConfigFileErrorsNameTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte("mqtt: {}\ndevices:\n  - {name: a, topic: t, every: 1s, replay: missing.txt}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := loadConfig(path)
	if err == nil || !strings.Contains(err.Error(), path+":3:44: read "+filepath.Join(filepath.Dir(path), "missing.txt")) {
		t.Errorf("got %v", err)
	}
}

// The demonstration in configs/demo is the one that `waystation-sim demo` runs.
func TestDemoFilesAreTheExamples(t *testing.T) {
	for _, name := range []string{"plant.yaml", "waystation.yaml"} {
		embedded, err := demoFiles.ReadFile("demo/" + name)
		if err != nil {
			t.Fatal(err)
		}
		example, err := os.ReadFile(filepath.Join("..", "..", "configs", "demo", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(embedded) != string(example) {
			t.Errorf("configs/demo/%s differs from cmd/waystation-sim/demo/%s: copy one to the other", name, name)
		}
	}
	plant, err := loadConfig(filepath.Join("..", "..", "configs", "demo", "plant.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := demoFiles.ReadFile("demo/waystation.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, once := range []string{plant.MQTT.Listen, plant.Kafka.Listen, "127.0.0.1:8100", "./data"} {
		if n := strings.Count(string(gateway), once); n != 1 {
			t.Errorf("%q is %d times in waystation.yaml; the demo replaces it and needs it once", once, n)
		}
	}
}

func TestWriteGatewayConfigReplacesEveryAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.yaml")
	if err := writeGatewayConfig(path, Addresses{MQTT: "127.0.0.1:11", Kafka: "127.0.0.1:22"}, "127.0.0.1:33", "/tmp/x y"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"tcp://127.0.0.1:11", `"127.0.0.1:22"`, `listen: "127.0.0.1:33"`, `dir: "/tmp/x y"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
