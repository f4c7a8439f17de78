package modbus

import (
	"context"
	"errors"
)

func (c *Config) Validate() error { return nil }

func (c *Config) devices(name string) []Device {
	all := c.Devices
	if len(all) == 0 {
		all = []Device{{Name: name, DeviceOptions: c.DeviceOptions}}
	}
	out := make([]Device, len(all))
	for i, d := range all {
		if d.Unit == 0 {
			d.Unit = defaultUnit
		}
		if d.Every == 0 {
			d.Every = c.Every
		}
		if d.Every == 0 {
			d.Every = defaultEvery
		}
		if d.Timeout == 0 {
			d.Timeout = c.Timeout
		}
		if d.Timeout == 0 {
			d.Timeout = defaultTimeout
		}
		if d.Retries == nil {
			d.Retries = c.Retries
		}
		if d.Retries == nil {
			n := defaultRetries
			d.Retries = &n
		}
		if d.Profile == nil {
			d.Profile = c.Profile
		}
		out[i] = d
	}
	return out
}

func (s *SunSpec) discover(ctx context.Context, ask func(context.Context, *request) ([]byte, error)) ([]Group, error) {
	data, err := ask(ctx, &request{function: readHolding, address: uint16(s.Bases[0]), count: 2})
	if err != nil {
		return nil, err
	}
	if string(data) != "SunS" {
		return nil, errors.New("find SunSpec models: there are none")
	}
	g := s.Models[0].Group
	g.Points = append([]Point{}, g.Points...)
	for i := range g.Points {
		g.Points[i].Address += s.Bases[0] + 2
	}
	return []Group{g}, nil
}
