package mqtt

import "time"

// pacer chooses the pause between paced reads: longer pauses make fewer and
// larger commits. It climbs while that costs no throughput: a broker with a
// small window of unacknowledged messages would otherwise wait for us.
type pacer struct {
	level   int       // index into gaps
	reads   int       // since the trial began
	bytes   int       // read since the trial began
	began   time.Time // of the trial
	rate    float64   // bytes per second on the level below; 0 = not known
	slow    int       // trials in a row with less throughput than below
	holding int       // trials to stay on this level
	now     func() time.Time
}

// Pauses and the length of a trial.
const (
	trialReads   = 64
	slowTrials   = 2
	holdTrials   = 40
	thinBytes    = 2 * flowBytes // per read, from which the second pause pays
	climbBytes   = 8 * flowBytes // and the longer ones
	keepFraction = 0.85          // of the throughput must remain to stay on a higher level
)

func newPacer() pacer { return pacer{now: time.Now} }

// gaps are the pauses, shortest first.
var gaps = [...]time.Duration{2 * time.Millisecond, 4 * time.Millisecond, 8 * time.Millisecond, 12 * time.Millisecond}

// gap returns the pause to make.
func (p *pacer) gap() time.Duration { return gaps[p.level] }

// dense reports whether much comes with each read.
func (p *pacer) dense() bool { return p.level > 1 }

// idle says that the flow has ended.
func (p *pacer) idle() { p.level, p.reads, p.bytes, p.rate, p.slow = 0, 0, 0, 0, 0 }

// read notes a read of n bytes under flow and may change the level.
func (p *pacer) read(n int) {
	if p.reads == 0 {
		p.began = p.now()
	}
	p.reads++
	p.bytes += n
	if p.reads <= trialReads {
		return
	}
	took := p.now().Sub(p.began).Seconds()
	rate, perRead := float64(p.bytes-n)/max(took, 1e-6), p.bytes/p.reads
	p.reads, p.bytes = 0, 0
	switch {
	case p.rate > 0 && rate < keepFraction*p.rate && p.level > 0:
		if p.slow++; p.slow < slowTrials {
			return // once may be chance
		}
		p.level, p.rate, p.slow, p.holding = p.level-1, 0, 0, holdTrials
	case p.holding > 0:
		p.holding--
	case perRead >= climbBytes && p.level < len(gaps)-1, perRead >= thinBytes && p.level == 0:
		p.level, p.slow, p.rate = p.level+1, 0, max(p.rate, rate) // or the loss would add up over the levels
	default:
		p.rate, p.slow = 0, 0
	}
}
