package main

import (
	"io"
	"net"
	"testing"
)

// pipe is a client's and a server's end of a connection through a link.
func pipe(t *testing.T, l *Link) (client, server net.Conn) {
	t.Helper()
	client, far := net.Pipe()
	server = l.admit(far)
	t.Cleanup(func() {
		client.Close()
		if server != nil {
			server.Close()
		}
	})
	return client, server
}

// receive returns a channel with what conn reads, closed at its end.
func receive(conn net.Conn) <-chan string {
	c := make(chan string)
	go func() {
		defer close(c)
		b := make([]byte, 64)
		for {
			n, err := conn.Read(b)
			if n > 0 {
				c <- string(b[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("write %q: %d, %v", s, n, err)
	}
}

func TestLinkRefuseResetsOldAndNew(t *testing.T) {
	l := newLink()
	client, server := pipe(t, l)
	got := receive(server)
	write(t, client, "before")
	if s := <-got; s != "before" {
		t.Fatalf("got %q", s)
	}
	if err := l.Cut(CutRefuse); err != nil {
		t.Fatal(err)
	}
	if s, open := <-got; open {
		t.Errorf("the server still got %q", s)
	}
	if _, err := client.Write([]byte("x")); err == nil {
		t.Error("the client's connection is still open")
	}
	other, refused := net.Pipe()
	defer other.Close()
	if l.admit(refused) != nil {
		t.Error("a new connection came through")
	}
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the refused connection is not closed: %v", err)
	}
	l.Restore()
	client, server = pipe(t, l)
	got = receive(server)
	write(t, client, "after")
	if s := <-got; s != "after" {
		t.Errorf("after Restore got %q", s)
	}
	if st := l.State(); st.Cuts != 1 || st.Refused != 2 || st.Cut != "" {
		t.Errorf("state %+v", st)
	}
}

func TestLinkHoleSwallowsBothWaysAndResetsWhatLostBytes(t *testing.T) {
	l := newLink()
	client, server := pipe(t, l)
	idleClient, idleServer := pipe(t, l)
	got := receive(server)
	if err := l.Cut(CutHole); err != nil {
		t.Fatal(err)
	}
	write(t, client, "lost")
	write(t, client, "too") // its taking shows that the first was swallowed
	write(t, server, "answer nobody reads")
	select {
	case s := <-got:
		t.Fatalf("the server got %q through the hole", s)
	default:
	}
	l.Restore()
	if s, open := <-got; open {
		t.Errorf("after Restore the server got %q from a stream with a hole", s)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection lost bytes and lives on")
	}
	idle := receive(idleServer)
	write(t, idleClient, "hello")
	if s := <-idle; s != "hello" {
		t.Errorf("the idle connection got %q", s)
	}
}

func TestLinkModeIsChecked(t *testing.T) {
	if newLink().Cut("saw") == nil {
		t.Error("mode saw was taken")
	}
}

func TestLinkOverTCP(t *testing.T) {
	l := newLink()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wrapped := l.Wrap(ln)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := wrapped.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // ends with the connection
			}()
		}
	}()
	echo := func() error {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 4))
		return err
	}
	if err := echo(); err != nil {
		t.Error(err)
	}
	if err := l.Cut(CutRefuse); err != nil {
		t.Fatal(err)
	}
	if err := echo(); err == nil {
		t.Error("a connection came through the cut link")
	}
	l.Restore()
	if err := echo(); err != nil {
		t.Error("after Restore:", err)
	}
	ln.Close()
	<-served
}
