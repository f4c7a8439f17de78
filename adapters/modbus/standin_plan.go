package modbus

import (
	"context"
	"fmt"
)

// poll is a stand-in: one request for each run of neighbouring spans.
type poll struct {
	spans   []span
	reqs    []request
	of      [][]int
	results []reading
	data    [][]byte
	held    map[int]error
}

func newPoll(spans []span, _ *Limits, _ *Select) (*poll, error) {
	p := &poll{spans: spans, results: make([]reading, len(spans)), held: map[int]error{}}
	for i, s := range spans {
		if n := len(p.reqs) - 1; n >= 0 && p.reqs[n].function == s.function && int(p.reqs[n].address)+int(p.reqs[n].count) == s.address && int(p.reqs[n].count)+s.length <= maxWords {
			p.reqs[n].count += uint16(s.length)
			p.of[n] = append(p.of[n], i)
			continue
		}
		p.reqs = append(p.reqs, request{function: s.function, address: uint16(s.address), count: uint16(s.length)})
		p.of = append(p.of, []int{i})
	}
	p.data = make([][]byte, len(p.reqs))
	return p, nil
}

func (p *poll) blocks() (out []block) {
	for i := range p.reqs {
		q := &p.reqs[i]
		out = append(out, block{span{q.function, int(q.address), int(q.count)}, p.of[i]})
	}
	return out
}

func (p *poll) heldOff() (out []span) {
	for i := range p.reqs {
		if p.held[i] != nil {
			out = append(out, p.blocks()[i].span)
		}
	}
	return out
}

func (p *poll) forget() { clear(p.held) }

func (p *poll) run(ctx context.Context, ask func(context.Context, *request) ([]byte, error)) ([]reading, error) {
	var end error
	for i := range p.reqs {
		q, err := &p.reqs[i], end
		var data []byte
		if err == nil {
			if data, err = ask(ctx, q); err != nil && exception(err) == 0 {
				end = err
			} else if err != nil {
				p.held[i] = err
				err = fmt.Errorf("held off: %w", err)
			}
		}
		p.data[i] = append(p.data[i][:0], data...)
		for _, n := range p.of[i] {
			if p.results[n] = (reading{err: err}); err == nil {
				at := 2 * (p.spans[n].address - int(q.address))
				p.results[n].data = p.data[i][at : at+2*p.spans[n].length]
			}
		}
	}
	return p.results, end
}
