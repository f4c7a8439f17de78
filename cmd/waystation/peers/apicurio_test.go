package peers

import (
	"bytes"
	"os"
	"testing"
)

func TestApicurioVersionIsThatOfTheScript(t *testing.T) {
	script, err := os.ReadFile("../../../.ci/interop-deps")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\napicurio=" + ApicurioVersion + "\n"; !bytes.Contains(script, []byte(want)) {
		t.Errorf(".ci/interop-deps does not hold %s", want)
	}
}
