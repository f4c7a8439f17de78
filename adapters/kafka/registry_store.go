package kafka

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waystation-iot/waystation/gateway"
)

// maxStore bounds what is read of the file of ids.
const maxStore = 4 << 20

// knownID says under which id a registry has a schema.
type knownID struct {
	Registry string `json:"registry"`
	Subject  string `json:"subject"`
	Schema   string `json:"schema_sha256"`
	ID       uint32 `json:"id"`
}

// storedIDs is the file: a wrong id would spoil every record, so it carries a
// checksum of the ids as they are written.
type storedIDs struct {
	Sum string          `json:"crc32c"`
	IDs json.RawMessage `json:"ids"`
}

// idStore is the file that keeps ids over restarts; path is "" when there is
// nowhere to keep it.
type idStore struct{ path string }

func newIDStore(env gateway.Env) idStore {
	if env.State == "" {
		return idStore{}
	}
	return idStore{filepath.Join(env.State, "schema-ids.json")}
}

func idSum(ids []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(ids, crc32.MakeTable(crc32.Castagnoli)))
}

// load reads the file. A file that is not there is empty; with an error
// nothing is known.
func (s idStore) load() ([]knownID, error) {
	if s.path == "" {
		return nil, nil
	}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ids of schemas: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxStore))
	if err != nil {
		return nil, fmt.Errorf("read ids of schemas: %w", err)
	}
	var file storedIDs
	var ids []knownID
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read ids of schemas %s: %w", s.path, err)
	}
	if idSum(file.IDs) != file.Sum {
		return nil, fmt.Errorf("read ids of schemas %s: the checksum does not match", s.path)
	}
	if err := json.Unmarshal(file.IDs, &ids); err != nil {
		return nil, fmt.Errorf("read ids of schemas %s: %w", s.path, err)
	}
	return ids, nil
}

// save replaces the file, whole or not at all.
func (s idStore) save(ids []knownID) (err error) {
	if s.path == "" {
		return nil
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	text, err := json.Marshal(storedIDs{idSum(list), list})
	if err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	if err := writeSynced(s.path+".new", text); err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write ids of schemas: %w", err)
	}
	return nil
}

// writeSynced writes a file and returns when it is on disk.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
