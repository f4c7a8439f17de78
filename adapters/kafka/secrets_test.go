package kafka

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/gateway"
)

// TestNothingTellsASecret looks at every log line, fact, error and finding of a
// sink, where it works and where it fails.
func TestNothingTellsASecret(t *testing.T) {
	const right, wrong = "geheim-password", "geheim-wrong"
	careless := newTokenServer(t, 100)
	careless.fail(func(w http.ResponseWriter, q *http.Request) {
		_, secret, _ := q.BasicAuth()
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"error":"invalid_client","error_description":%q}`, secret)
	})
	c, err := newSecretCluster(t, right)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o *Config){
		"plain":     func(o *Config) { o.SASL = SASL{Mechanism: "plain", User: "gw", Password: right} },
		"file":      func(o *Config) { o.SASL = SASL{Mechanism: "scram-sha-256", User: "gw", Password: "file:password"} },
		"no file":   func(o *Config) { o.SASL = SASL{Mechanism: "plain", User: "gw", Password: "file:geheim-none"} },
		"wrong":     func(o *Config) { o.SASL = SASL{Mechanism: "plain", User: "gw", Password: wrong} },
		"scram":     func(o *Config) { o.SASL = SASL{Mechanism: "scram-sha-512", User: "gw", Password: wrong} },
		"no rights": func(o *Config) { o.SASL = SASL{Mechanism: "plain", User: "guest", Password: right} },
		"no topic":  func(o *Config) { o.Topic, o.SASL = "none", SASL{Mechanism: "plain", User: "gw", Password: right} },
		"no broker": func(o *Config) {
			o.Brokers, o.SASL = []string{"127.0.0.1:1"}, SASL{Mechanism: "plain", User: "gw", Password: right}
		},
		"TLS":        func(o *Config) { o.TLS.Enabled, o.SASL = true, SASL{Mechanism: "plain", User: "gw", Password: right} },
		"mechanism":  func(o *Config) { *o = *oauthConfig(careless); o.SASL.OAuth.ClientSecret = "geheim-client" },
		"no address": func(o *Config) { *o = *oauthConfig(careless); o.SASL.OAuth.TokenURL = "http://127.0.0.1:1/geheim-path" },
	} {
		t.Run(name, func(t *testing.T) {
			var told bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: false}))
			conf := NewConfig()
			conf.Brokers, conf.Topic, conf.Compression = c, "data", "none"
			conf.RequestTimeout, conf.DialTimeout = time.Second, time.Second
			change(conf)
			tellAll(t, conf, gateway.Env{GatewayID: "gw1", Name: "shore", Dir: dir, Log: log}, &told)
			secrets := []string{right, wrong, "geheim-client", "geheim-path", "geheim-tenant", "token-1"}
			for _, s := range secrets {
				if strings.Contains(told.String(), s) {
					t.Errorf("%q is told:\n%s", s, told.String())
				}
			}
			if !strings.Contains(told.String(), "shore") && name != "plain" {
				t.Errorf("too little is told: %s", told.String())
			}
		})
	}
}

// newSecretCluster starts brokers that want a log-in.
func newSecretCluster(t *testing.T, password string) ([]string, error) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "data"), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", "gw", password), kfake.Superuser("SCRAM-SHA-256", "gw", password),
		kfake.Superuser("SCRAM-SHA-512", "gw", password), kfake.User("PLAIN", "guest", password))
	if err != nil {
		return nil, err
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs(), nil
}

// tellAll has a sink say all that it can say.
func tellAll(t *testing.T, conf *Config, env gateway.Env, told *bytes.Buffer) {
	t.Helper()
	r := &rig{t: t}
	options := *conf
	options.SASL.OAuth.TokenURL = "" // an option like others, but no text for a log
	fmt.Fprintf(told, "%v %+v %#v %v\n", options, options, options.SASL, conf.Validate())
	text, err := json.Marshal(options)
	fmt.Fprintf(told, "%s %v\n", text, err)
	built, err := conf.Sink(env)
	if err != nil {
		fmt.Fprintln(told, err)
		return
	}
	s := built.(*Sink)
	s.tries, s.pause = 2, time.Millisecond
	for range 2 {
		err := s.Connect(r.ctx())
		if err == nil {
			err = s.Send(r.ctx(), r.batch(3, 1))
		}
		fmt.Fprintf(told, "%v %+v %q\n", err, err, fmt.Sprint(err))
		text, _ := json.Marshal(s.Facts())
		told.Write(text)
	}
	s.renew("to hear what it says")
	s.secure.creds.LogWarnings(env.Log, time.Now())
	conf.Check(r.ctx(), env, func(f gateway.Finding) {
		text, _ := json.Marshal(f)
		fmt.Fprintf(told, "%s shore\n", text)
	})
	fmt.Fprintln(told, s.Close())
}
