package mqtt

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
)

// bridge passes WebSockets on to a broker.
func bridge(t *testing.T, addr string) http.Handler {
	up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mqtt" {
			http.NotFound(w, r)
			return
		}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		tcp, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		s := &socket{Conn: ws, under: ws.UnderlyingConn()}
		go func() {
			_, _ = io.Copy(tcp, s)
			_ = tcp.Close()
		}()
		_, _ = io.Copy(s, tcp)
		_ = s.Close()
	})
}

func TestWebsocket(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	for _, secured := range []bool{false, true} {
		web := httptest.NewUnstartedServer(bridge(t, b.Addr()))
		scheme, a := "ws://", newAuthority(t)
		if secured {
			scheme, web.TLS = "wss://", a.server(t, "127.0.0.1")
			web.StartTLS()
		} else {
			web.Start()
		}
		t.Cleanup(web.Close)
		src := newSource(t, scheme+web.Listener.Addr().String()+"/mqtt", func(c *Config) { c.ClientID = scheme })
		if secured {
			src.tls = a.always(t)
		}
		r := start(t, src)
		b.PublishN("a", 1, 2000, 1)
		b.Publish("a", strings.Repeat("x", 300_000), 1, false)
		r.st.first(t, 2001)
		if got := r.st.numbers(); !slices.Equal(got, span(1, 2000)) {
			t.Error("not in order")
		}
		b.Cut()
		r.err()
		b.Restore()
		b.Publish("a", "again", 1, false)
		eventually(t, "a message after the cut", func() bool { return r.st.has("again") })
		r.stop()
	}
	r := newRig(t, newSource(t, "ws://"+httptest.NewServer(bridge(t, b.Addr())).Listener.Addr().String()+"/wrong", nil))
	r.begin(1)
	if err := r.err(); !strings.Contains(err.Error(), "404") {
		t.Errorf("got error %v", err)
	}
}
