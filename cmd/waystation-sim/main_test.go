package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// fakeGatewayEnv makes this test binary a gateway (fake_gateway_test.go); its
// value is the way in which that gateway behaves.
const fakeGatewayEnv = "WAYSTATION_SIM_FAKE_GATEWAY"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeGatewayEnv); how != "" && len(os.Args) > 3 && os.Args[1] == "run" {
		os.Exit(fakeGateway(how, os.Args[3]))
	}
	goleak.VerifyTestMain(m)
}

// testContext ends a test that hangs.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDispatchExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
		says string
	}{
		{nil, exitUsage, "waystation-sim COMMAND -h"},
		{[]string{"nonsense"}, exitUsage, `unknown command "nonsense"`},
		{[]string{"run"}, exitUsage, "give the plant with -c FILE"},
		{[]string{"run", "-c", "/no/such/plant.yaml"}, exitWrong, "/no/such/plant.yaml"},
		{[]string{"run", "-x"}, exitUsage, "-x"},
		{[]string{"judge"}, exitUsage, "give -c FILE or -brokers"},
		{[]string{"judge", "-brokers", "127.0.0.1:1", "-topics", "[", "more"}, exitUsage, `unexpected argument "more"`},
		{[]string{"judge", "-brokers", "127.0.0.1:1", "-topics", "["}, exitUsage, "malformed"},
		{[]string{"demo", "--duration", "60s", "--cut", "50s"}, exitUsage, "too long"},
		{[]string{"demo", "--mode", "saw"}, exitUsage, "neither refuse nor hole"},
		{[]string{"demo", "--gateway", "/no/such/waystation"}, exitWrong, "is not a program"},
	} {
		var out, errs bytes.Buffer
		got := dispatch(testContext(t), c.args, stdio{nil, &out, &errs})
		if got != c.want || !strings.Contains(errs.String(), c.says) {
			t.Errorf("dispatch %q: code %d, stderr %q; want code %d and %q", c.args, got, errs.String(), c.want, c.says)
		}
	}
}
