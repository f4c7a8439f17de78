package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"time"
)

// defaultRepeats is how many records a gateway with delivery at-least-once may
// repeat across a kill -9: those of one batch.
const defaultRepeats = 2048

// judgeCommand is `waystation-sim judge`.
func judgeCommand(ctx context.Context, args []string, std stdio) error {
	fs := flag.NewFlagSet("judge", flag.ContinueOnError)
	file := fs.String("c", "", "the YAML `FILE` of the plant: gives the broker's address and the recordings")
	brokers := fs.String("brokers", "", "Kafka brokers, `host:port,…`")
	topics := fs.String("topics", "", "topics to read, `globs` with commas between; default all")
	report := fs.String("plant", "", "the report that `run` printed at its end (`FILE`); without it a loss at the end of a device goes unnoticed")
	repeats := fs.Int64("repeats", defaultRepeats, "records that may be repeated: one batch")
	timeout := fs.Duration("timeout", time.Minute, "bound of the whole reading")
	asJSON := fs.Bool("json", false, "print the verdict as JSON")
	if err := parseFlags(fs, args, std.err); err != nil {
		return err
	}
	if (*file == "") == (*brokers == "") {
		return badUsage(fs, "give -c FILE or -brokers ADDR")
	}
	cfg := &Config{}
	if *file != "" {
		var err error
		if cfg, err = loadConfig(*file); err != nil {
			return err
		}
		if cfg.Kafka == nil {
			return fmt.Errorf("judge %s: it has no kafka", *file)
		}
		*brokers = cfg.Kafka.Listen
	}
	known, err := readReport(*report)
	if err != nil {
		return err
	}
	patterns, err := splitPatterns(*topics)
	if err != nil {
		return badUsage(fs, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if *file != "" {
		stop, err := reviveKafka(cfg.Kafka, brokers)
		if err != nil {
			return err
		}
		defer stop()
	}
	v, err := judgeKafka(ctx, newJudge(known, cfg.Devices, *repeats), strings.Split(*brokers, ","), patterns)
	if err != nil {
		return err
	}
	return printVerdict(v, *asJSON, std)
}

// reviveKafka starts the plant's Kafka on the log it left behind, when the
// plant itself has ended; addr becomes its address.
func reviveKafka(cfg *KafkaConfig, addr *string) (stop func(), err error) {
	conn, err := net.DialTimeout("tcp", cfg.Listen, time.Second)
	if err == nil {
		return func() {}, conn.Close()
	}
	if cfg.Dir == "" {
		return nil, fmt.Errorf("judge kafka: the plant has ended and kept no log (give kafka: dir:): %w", err)
	}
	k, err := startKafka(&KafkaConfig{Listen: "127.0.0.1:0", Dir: cfg.Dir, Partitions: cfg.Partitions})
	if err != nil {
		return nil, err
	}
	*addr = k.addr
	return func() { _ = k.close() }, nil // what was read is read
}

// judgeKafka lets a judge read everything.
func judgeKafka(ctx context.Context, j *judge, brokers, patterns []string) (*Verdict, error) {
	open, err := consumeAll(ctx, brokers, patterns, j.add)
	if err != nil {
		return nil, err
	}
	j.v.Open = open
	return j.verdict(), nil
}

// printVerdict returns errWrong when the verdict is not good.
func printVerdict(v *Verdict, asJSON bool, std stdio) error {
	if asJSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("write verdict: %w", err)
		}
	} else {
		v.write(std.out)
	}
	if !v.Good {
		return errWrong
	}
	return nil
}

// readReport reads the devices of the last line that `run` printed.
func readReport(file string) (map[string]DeviceCount, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read report of the plant: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var r PlantReport
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return nil, fmt.Errorf("read report of the plant %s: %w", file, err)
	}
	if r.Devices == nil {
		return nil, fmt.Errorf("read report of the plant %s: its last line names no devices; did the plant end?", file)
	}
	return r.Devices, nil
}

func splitPatterns(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	patterns := strings.Split(s, ",")
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("topic pattern %q is malformed", p)
		}
	}
	return patterns, nil
}
