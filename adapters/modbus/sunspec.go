package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SunSpec (SunSpec Device Information Model Specification, section 6): at one
// of a few bases stands "SunS", behind it models one after the other, each
// with its identifier, its length in registers and its points; identifier
// 0xFFFF ends the chain.
const (
	sunspecModels = 64     // of a device, at most: real ones have a dozen
	sunspecEnd    = 0xFFFF // identifier behind the last model
	sunspecHead   = 2      // registers of identifier and length
)

// asker makes one request on the line of a device.
type asker = func(context.Context, *request) ([]byte, error)

// sunspecBases are where a map may begin.
func (s *SunSpec) sunspecBases() []int {
	if len(s.Bases) == 0 {
		return []int{40000, 0, 50000}
	}
	return s.Bases
}

// discover finds the models on a device and returns those that are wanted, as
// groups with absolute addresses. A second model of the same layout has -2
// behind its name, and so on. Points behind the end of a model are left out:
// older editions are shorter. The error is a *silence when nothing answered.
func (s *SunSpec) discover(ctx context.Context, ask asker) ([]Group, error) {
	base, err := s.find(ctx, ask)
	if err != nil {
		return nil, err
	}
	found, err := chain(ctx, ask, base+sunspecHead)
	if err != nil {
		return nil, err
	}
	var out []Group
	named := map[string]int{}
	for _, m := range found {
		i := slices.IndexFunc(s.Models, func(w SunSpecModel) bool { return slices.Contains(w.IDs, m.id) })
		if i < 0 {
			continue
		}
		g, any := m.group(&s.Models[i].Group)
		if !any {
			continue
		}
		if named[g.Name]++; named[g.Name] > 1 {
			g.Name = fmt.Sprintf("%s-%d", g.Name, named[g.Name])
		}
		out = append(out, g)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("find SunSpec models: the device has %s, none that the profile reads", ids(found))
	}
	return out, nil
}

// find returns the base where the device has its map.
func (s *SunSpec) find(ctx context.Context, ask asker) (int, error) {
	var tried []string
	var quiet error
	heard := false
	for _, base := range s.sunspecBases() {
		if base < 0 || base+sunspecHead > 1<<16 {
			continue
		}
		tried = append(tried, fmt.Sprint(base))
		data, err := ask(ctx, &request{function: readHolding, address: uint16(base), count: sunspecHead})
		switch {
		case err == nil && bytes.Equal(data, []byte("SunS")):
			return base, nil
		case isBusy(exception(err)), isLost(err):
			return 0, err
		case err == nil, exception(err) != 0:
			heard = true
		case isSilence(err):
			quiet = err // some devices do not answer for registers they lack
		default:
			return 0, err
		}
	}
	if !heard && quiet != nil {
		return 0, quiet
	}
	return 0, fmt.Errorf("find SunSpec map: no \"SunS\" at holding register %s (is SunSpec turned on? bases of the profile say where else it may be)", strings.Join(tried, ", "))
}

// model is one model of a device.
type model struct {
	id, length int
	at         int // register of its identifier
}

// chain reads the identifiers and lengths of the models from at on.
func chain(ctx context.Context, ask asker, at int) ([]model, error) {
	var out []model
	for len(out) < sunspecModels && at+sunspecHead <= 1<<16 {
		data, err := ask(ctx, &request{function: readHolding, address: uint16(at), count: sunspecHead})
		if code := exception(err); code > 0 && code <= illegalValue && len(out) > 0 {
			return out, nil // the end is missing, or cannot be read
		}
		if err != nil {
			return nil, err
		}
		if len(data) < 2*sunspecHead {
			return nil, errors.New("read SunSpec model: the answer is too short")
		}
		m := model{id: int(binary.BigEndian.Uint16(data)), length: int(binary.BigEndian.Uint16(data[2:])), at: at}
		if m.id == sunspecEnd {
			return out, nil
		}
		if m.id == 0 || at+sunspecHead+m.length > 1<<16 {
			return nil, fmt.Errorf("read SunSpec model at holding register %d: identifier %d and length %d make no sense", at, m.id, m.length)
		}
		out = append(out, m)
		at += sunspecHead + m.length
	}
	return out, nil
}

// group returns the points of a layout that lie within the model, at their
// absolute addresses; false when there are none.
func (m model) group(layout *Group) (Group, bool) {
	g := *layout
	g.Points = nil
	end := sunspecHead + m.length
	for _, p := range layout.Points {
		last, _ := p.run(p.elements() - 1)
		if last.end() > end || p.ScaleAt != nil && *p.ScaleAt >= end {
			continue
		}
		p.Address += m.at
		if p.ScaleAt != nil {
			at := *p.ScaleAt + m.at
			p.ScaleAt = &at
		}
		g.Points = append(g.Points, p)
	}
	return g, len(g.Points) > 0
}

// ids lists the identifiers of models.
func ids(found []model) string {
	if len(found) == 0 {
		return "no models"
	}
	var out []string
	for _, m := range found {
		out = append(out, fmt.Sprint(m.id))
	}
	return "the models " + strings.Join(out, ", ")
}
