package peers

import (
	"bytes"
	"os"
	"testing"
)

func TestVersityVersionIsThatOfTheScript(t *testing.T) {
	script, err := os.ReadFile("../../../.ci/interop-deps")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nversitygw=" + VersityVersion + "\n"; !bytes.Contains(script, []byte(want)) {
		t.Errorf(".ci/interop-deps does not hold %s", want)
	}
}
