package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/waystation-iot/waystation/gateway/codec"
)

func schemaOut(t *testing.T, want int, args ...string) (string, string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := dispatch(append([]string{"schema"}, args...), &out, &errOut); code != want {
		t.Fatalf("schema %v: exit %d: %s", args, code, errOut.String())
	}
	return out.String(), errOut.String()
}

func TestSchemaPrintsTheDocument(t *testing.T) {
	for encoding, file := range map[string]string{"avro": "record.avsc", "protobuf": "record.proto", "json": "record.schema.json"} {
		want, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := schemaOut(t, exitGood, encoding); got != string(want) {
			t.Errorf("%s: got\n%s", encoding, got)
		}
		if got, _ := schemaOut(t, exitGood, "--fingerprint", encoding); got != codec.Fingerprint(string(want))+"\n" {
			t.Errorf("%s: fingerprint %s", encoding, got)
		}
		body, _ := schemaOut(t, exitGood, encoding, "--request")
		var doc struct{ Schema, SchemaType string }
		if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Schema != string(want) || !strings.EqualFold(doc.SchemaType, strings.TrimPrefix(encoding, "avro")) {
			t.Errorf("%s: %v, type %q", encoding, err, doc.SchemaType)
		}
		registry := httptest.NewServer(srfake.New().Handler())
		answer, err := http.Post(registry.URL+"/subjects/t-value/versions", "application/vnd.schemaregistry.v1+json", strings.NewReader(body))
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: a registry answers %v, %v", encoding, answer, err)
		}
		registry.Close()
	}
	for _, args := range [][]string{{}, {"raw"}, {"avro", "json"}, {"--request", "--fingerprint", "avro"}, {"--x"}} {
		if _, errOut := schemaOut(t, exitUsage, args...); errOut == "" {
			t.Errorf("%v: nothing is said", args)
		}
	}
}
