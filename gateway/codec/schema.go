package codec

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
)

// The schemas, the same files as in docs.
var (
	//go:embed schemas/record.avsc
	avroSchema string
	//go:embed schemas/record.proto
	protobufSchema string
	//go:embed schemas/record.schema.json
	jsonSchema string
)

// SchemaName is the full name of the record in the Avro and Protobuf schema.
const SchemaName = "io.waystation.v1.Record"

// Schema returns the schema of the encoding avro, protobuf or json.
func Schema(encoding string) (string, error) {
	switch encoding {
	case NameAvro:
		return avroSchema, nil
	case NameProtobuf:
		return protobufSchema, nil
	case NameJSON:
		return jsonSchema, nil
	}
	return "", fmt.Errorf("find schema: %q has none, must be avro, protobuf or json", encoding)
}

// Fingerprint tells schemas apart: SHA-256 in hexadecimal, as sha256sum prints
// it of the file.
func Fingerprint(schema string) string {
	sum := sha256.Sum256([]byte(schema))
	return hex.EncodeToString(sum[:])
}
