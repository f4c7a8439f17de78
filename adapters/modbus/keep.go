package modbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keptFile is where the state of counters is stored, below Env.State.
const keptFile = "counters.json"

// keptState is what is in it: by device and group.
type keptState struct {
	Version  int               `json:"version"`
	Counters map[string][]byte `json:"counters"`
}

// key names g in the file.
func (g *group) key() string { return g.u.Name + "/" + g.name }

// recall reads the state of counters, once. When it cannot be read, they begin anew.
func (s *source) recall() {
	if s.env.State == "" {
		return
	}
	path := filepath.Join(s.env.State, keptFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k keptState
	if err == nil {
		if err = json.Unmarshal(text, &k); err == nil && k.Version != 1 {
			err = fmt.Errorf("it has version %d, not 1", k.Version)
		}
	}
	if err != nil {
		s.log.Warn("counters begin anew: their state cannot be read", "file", path, "error", err)
		return
	}
	for key, state := range k.Counters {
		s.kept[key] = state
	}
	for _, u := range s.units {
		for _, g := range u.groups {
			s.restore(g)
		}
	}
}

// restore has the counters of g go on from what was stored.
func (s *source) restore(g *group) {
	s.mu.Lock()
	state := s.kept[g.key()]
	s.mu.Unlock()
	if len(state) > 0 {
		g.decoder.restore(state)
	}
}

// keep takes the state of the counters of g, also for when its model is found
// again, and reports whether there is any.
func (s *source) keep(g *group) bool {
	g.mu.Lock()
	state := g.decoder.state()
	g.mu.Unlock()
	if len(state) > 0 {
		s.mu.Lock()
		s.kept[g.key()] = state
		s.mu.Unlock()
	}
	return len(state) > 0
}

// finds reports whether a key may be that of a model which is not found now, as
// that of an inverter at night.
func (s *source) finds(key string) bool {
	for _, u := range s.units {
		if u.Profile.SunSpec != nil && strings.HasPrefix(key, u.Name+"/") {
			return true
		}
	}
	return false
}

// save stores the state of counters. What cannot be stored is tried again the
// next time. It is called by one goroutine at a time.
func (s *source) save() {
	if s.env.State == "" {
		return
	}
	k := keptState{Version: 1, Counters: map[string][]byte{}}
	s.mu.Lock()
	groups := s.allGroups()
	s.mu.Unlock()
	known := map[string]bool{}
	for _, g := range groups {
		known[g.key()] = s.keep(g)
	}
	s.mu.Lock()
	for key, state := range s.kept {
		if known[key] || s.finds(key) {
			k.Counters[key] = state
		}
	}
	s.mu.Unlock()
	if len(k.Counters) == 0 {
		return
	}
	text, err := json.Marshal(k)
	if err == nil {
		err = writeWhole(filepath.Join(s.env.State, keptFile), text)
	}
	if failed := err != nil; failed != s.unsaved {
		if s.unsaved = failed; failed {
			s.log.Warn("the state of counters cannot be stored: after a restart they may begin anew", "error", err)
		}
	}
}

// writeWhole replaces a file as a whole: after a power cut it is the old one or
// the new one.
func writeWhole(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what matters is err
		}
	}()
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	return err
}
